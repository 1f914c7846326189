"""The experiments: every module that is run is `python -m experiments.MODULE`."""
