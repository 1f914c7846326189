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
    """The figures of a run, of which `landscape` may be a part, as PNG and PDF, and its page."""
    made, pictures = _files(run_figures.run_figures(metrics))
    return made, run_page(metrics, pictures)


def of_suite(metrics: Metrics, names: Sequence[str]) -> Published:
    """The figures of a suite that are asked for, the numbers drawn in each as JSON, and its page."""
    drawn = suite_figures.draw(metrics, names) | landscape_figures.draw(metrics, names)
    made, pictures = _files({name: figure for name, (figure, _) in drawn.items()})
    made |= {f"{name}.json": files.to_json(data) for name, (_, data) in drawn.items()}
    return made, suite_page(metrics, pictures)


def _files(figures: Mapping) -> tuple[dict[str, bytes | str], dict[str, bytes]]:
    """The figures as files, and the pictures among them by the figures' names."""
    pictures = {name: run_figures.png(figure) for name, figure in figures.items()}
    made: dict[str, bytes | str] = {f"{name}.png": data for name, data in pictures.items()}
    return made | {f"{name}.pdf": run_figures.pdf(f) for name, f in figures.items()}, pictures
