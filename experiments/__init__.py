"""The experiments: every module that is run is `python -m experiments.MODULE`."""

from experiments.system import launch

launch.with_huge_pages(__name__)
