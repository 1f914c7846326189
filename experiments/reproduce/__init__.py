"""The command `python -m experiments.reproduce`: which runs a suite needs, and what they say."""
