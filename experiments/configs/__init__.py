"""What values a run may have: defaults with a comment each, recipes of methods, data sets, suites.

It imports `system`, and never JAX.
"""
