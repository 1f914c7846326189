"""The experiments: every module that is run is `python -m experiments.MODULE`."""

from experiments import launch

launch.with_huge_pages(__name__)
