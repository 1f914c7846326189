"""What the project costs, measured beside its peers in one run: `python -m benchmarks.run`."""
