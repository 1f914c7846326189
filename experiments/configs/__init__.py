"""What values a run may have: defaults with a comment each, bounds, data sets, suites, and recipes
of methods with their names and colours; JAX is never imported.
"""
