"""What is published of the metrics of a run or of a suite: files of figures, and one page of HTML."""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.report import landscape_figures, run_figures, suite_figures
from experiments.report.run_page import run_page
from experiments.report.suite_page import suite_page
from experiments.system import files

Metrics = Mapping[str, Any]
Published = tuple[dict[str, bytes | str], str]  # files of figures by name, and the page


def of_run(metrics: Metrics) -> Published:
    """The figures of a run as PNG and PDF, and its page; see `run_figures` and `page`."""
    figures = run_figures.run_figures(metrics)
    pictures = {name: run_figures.png(figure) for name, figure in figures.items()}
    made = {f"{name}.png": picture for name, picture in pictures.items()}
    made |= {f"{name}.pdf": run_figures.pdf(figure) for name, figure in figures.items()}
    return made, page(metrics, pictures)


def of_suite(metrics: Metrics, names: Sequence[str]) -> Published:
    """The figures of a suite that are asked for, the numbers drawn in each as JSON, and its page."""
    drawn = suite_figures.draw(metrics, names) | landscape_figures.draw(metrics, names)
    pictures, made = {}, {}
    for name, (figure, data) in drawn.items():
        pictures[name] = made[f"{name}.png"] = run_figures.png(figure)
        made[f"{name}.pdf"] = run_figures.pdf(figure)
        made[f"{name}.json"] = files.to_json(data)
    return made, page(metrics, pictures)


def page(metrics: Metrics, pictures: Mapping[str, bytes]) -> str:
    """One HTML page with everything inside it: it refers to no other file and no network.

    Args:
      metrics: of one run, with its `landscape` if there is one, or of a suite; parts that are missing
        are left out.
      pictures: PNG files by name, of the figures of `run_figures` or `suite_figures`.
    """
    return (suite_page if "table" in metrics else run_page)(metrics, pictures)
