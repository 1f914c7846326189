"""What the project costs, measured beside its peers in one run: `python -m benchmarks.run`."""

from experiments.system import launch

launch.with_huge_pages(__name__)
