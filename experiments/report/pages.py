"""The metrics of a run or of a suite as one self-contained HTML page."""

from collections.abc import Mapping
from typing import Any

from experiments.report.run_page import run_page
from experiments.report.suite_page import suite_page


def page(metrics: Mapping[str, Any], pictures: Mapping[str, bytes]) -> str:
    """One HTML page with everything inside it: it refers to no other file and no network.

    Args:
      metrics: of one run, with its `landscape` if there is one, or of a suite; parts that are missing
        are left out.
      pictures: PNG files by name, of the figures of `run_figures` or `suite_figures`.
    """
    return (suite_page if "verdict" in metrics else run_page)(metrics, pictures)
