"""The command `python -m experiments.reproduce`: which runs a suite needs, and what they say.

It imports `runs` and everything that `runs` imports.
"""
