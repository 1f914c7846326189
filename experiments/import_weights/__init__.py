"""Weights that PyTorch trained, as the start of runs; `python -m experiments.import_weights --help`."""
