"""What the figures of a suite show, against the committed numbers and the records of the runs."""

import itertools
import json

import numpy as np
import pytest
from records import RESULTS, committed, flat, place, record, runs_of, values

from experiments.report import suite_figures
from experiments.results import summary
from experiments.results.styles import METRICS, QUANTITIES, style_of

NAMES = ("fig3", "fig4", "fig5", "fig6", "fig7", "rivals", "tuned")
ALL = (*NAMES, "reliability", "selection")


@pytest.fixture(scope="module")
def drawn():
    return suite_figures.draw(committed("digits"), NAMES)


def plain(data):
    return json.loads(json.dumps(data, allow_nan=False))


def suite(keep=lambda run: True, spoil=lambda run: None):
    """Some runs of the digits, each changed, and their table."""
    found = committed("digits")
    runs = [run for run in plain(found["runs"]) if keep(run)]
    for run in runs:
        spoil(run)
    return {"runs": runs, "table": plain(summary.table(runs, found["config"]["products"]))}


def whisker(container):
    """Half the length of each error bar; nothing if there are none."""
    _, _, bars = container.lines
    segments = [np.asarray(segment) for bar in bars for segment in bar.get_segments()]
    return np.array([np.ptp(segment, axis=0).max() / 2 for segment in segments if len(segment)])


def lines_of(ax):
    """By label, the lines of a legend."""
    handles, labels = ax.get_legend_handles_labels()
    lines = [handle.lines[0] if hasattr(handle, "lines") else handle for handle in handles]
    return dict(zip(labels, lines, strict=True))


@pytest.mark.parametrize("name", ["digits", "cifar10-small"])
def test_committed_figures_are_drawn_from_their_metrics(name):
    files = (RESULTS / name / "figures").glob("*.json")
    stored = {path.stem: json.loads(path.read_text()) for path in files}
    found = suite_figures.draw(committed(name), [figure for figure in NAMES if figure in stored])
    assert list(found) == [figure for figure in ALL if figure in stored]
    for figure, (_, data) in found.items():
        ours, theirs = flat(plain(data)), flat(stored[figure])
        assert list(ours) == list(theirs), figure
        for where, value in ours.items():
            exact = not isinstance(value, float)
            assert theirs[where] == (value if exact else pytest.approx(value, 1e-6)), where


def test_lines_bands_and_bars_are_the_numbers_beside_them(drawn):
    for name, part, value in (
        *(("fig7", part, "accuracy") for part in ("paths", "levels")),
        *(("fig6", "methods", "accuracy"), ("selection", "risk_coverage", "risk")),
    ):
        figure, data = drawn[name]
        for method, found in data[part].items():
            line = lines_of(figure.axes[0])[style_of(method).label]
            np.testing.assert_allclose(line.get_ydata(), found[value])
    figure, data = drawn["fig7"]
    assert {"standard", "standard_matched", "ema"} <= data["levels"].keys()  # the matched control
    for found, band in zip(data["paths"].values(), figure.axes[0].collections, strict=False):
        vertices = band.get_paths()[0].vertices
        mean, stderr = (np.array(found[name]) for name in ("accuracy", "stderr"))
        for alpha, *ends in zip(found["alphas"], mean - stderr, mean + stderr, strict=True):
            heights = vertices[np.isclose(vertices[:, 0], alpha), 1]
            np.testing.assert_allclose([heights.min(), heights.max()], ends)
    figure, data = drawn["fig4"]
    for container, found in zip(figure.axes[0].containers, data.values(), strict=True):
        np.testing.assert_allclose(container.lines[0].get_ydata(), found["accuracy"])
        np.testing.assert_allclose(whisker(container), found["stderr"], rtol=1e-6)
    figure, data = drawn["reliability"]
    for ax, (method, bins) in zip(figure.axes, data.items(), strict=False):
        assert ax.get_title() == style_of(method).label
        filled = np.array(bins["weight"]) > 0
        heights = [bar.get_height() for bar in ax.containers[0]]
        np.testing.assert_allclose(heights, np.array(bins["accuracy"])[filled])


@pytest.mark.parametrize(
    ("name", "shown"),
    [("fig5", ("ece", "scaled.ece", "nll")), ("rivals", METRICS), ("tuned", METRICS)],
)
def test_dots_are_those_of_the_table_with_whiskers_of_a_standard_error(drawn, name, shown):
    figure, data = drawn[name]
    for (entries, metric), ax in zip(
        itertools.product(data.values(), shown), figure.axes, strict=True
    ):
        assert ax.get_xlabel() == QUANTITIES[metric].label
        by_row = {int(c.lines[0].get_ydata()[0]): c for c in ax.containers}
        for i, entry in enumerate(entries):
            mean, stderr = (QUANTITIES[metric].scale * x for x in entry[metric].values())
            assert by_row[i].lines[0].get_xdata()[0] == pytest.approx(mean)
            np.testing.assert_allclose(whisker(by_row[i]), stderr, rtol=1e-6)
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert len(set(labels)) == len(labels)


def test_both_learning_rates_and_all_corruptions_are_drawn_where_they_were_run():
    drawn = suite_figures.draw(committed("digits"), ("learning_rate", "corruptions"))
    assert not {"learning_rate", "corruptions"} & set(drawn)
    mce = {"corruptions_mce": {"raw": 0.4, "standard": 0.9}}
    runs = [
        run
        for recipe in ("standard", "line", "line_lr_m")
        for run in runs_of(recipe, values(0.9, 3))
        + [record(recipe, s, {"midpoint": place(**mce)}, setting="corrupted") for s in range(3)]
    ]
    metrics = {"runs": runs, "table": summary.table(runs)}
    drawn = suite_figures.draw(metrics, ("learning_rate", "corruptions"))
    (shown,) = drawn["learning_rate"][1].values()
    assert [row["method"] for row in shown] == ["standard", "line", "line_lr_m"]
    (shown,) = drawn["corruptions"][1].values()
    for row in shown:
        assert row["corruptions_mce.raw"] == {
            "mean": pytest.approx(0.4),
            "stderr": pytest.approx(0),
        }


def test_a_size_that_was_not_trained_breaks_the_line():
    kept = ("standard", "line", "simplex_4", "swa_constant_5")
    figure, data = suite_figures.draw(suite(lambda r: r["method"] in kept), ("fig4",))["fig4"]
    sizes = {family: list(found["m"]) for family, found in data.items()}
    assert sizes == {"simplex": [1, 2, 4], "swa_constant": [1, 5]}
    drawn = figure.axes[0].containers[-1].lines[0].get_ydata()
    assert np.isfinite(drawn).tolist() == [True, False, False, False, True]


def without(part):
    def spoil(run):
        for found in run["places"].values():
            found.pop(part, None)

    return lambda run: run["seed"] in (0, 1000), spoil


@pytest.mark.parametrize(
    ("missing", "change"),
    [
        (set(ALL), (lambda run: False,)),
        ({"fig7"}, (lambda run: run["label_noise"] == 0.0,)),
        ({"tuned"}, (lambda run: run["setting"] == "article",)),
        ({"fig3", "fig7"}, (lambda r: r["method"] not in ("line", "layerwise_line", "curve"),)),
        ({"fig6"}, without("corruptions")),
        ({"fig5"}, without("scaled")),
    ],
)
def test_figures_without_their_runs_or_measurements_are_left_out(missing, change):
    assert set(ALL) - set(suite_figures.draw(suite(*change), NAMES)) == missing


def test_one_seed_has_no_standard_error():
    drawn = suite_figures.draw(suite(lambda run: run["seed"] % 1000 == 0), NAMES)
    assert not drawn["fig3"][0].axes[0].collections
    for name in NAMES:
        for ax in drawn[name][0].axes:
            assert all(len(whisker(c)) == 0 or np.isnan(whisker(c)).all() for c in ax.containers)
    for data in (drawn["fig6"][1]["methods"], drawn["fig3"][1]["paths"]):
        assert {(found["num_seeds"], found["stderr"]) for found in data.values()} == {(1, None)}


def test_a_value_that_is_not_finite_is_null_and_written_in_its_row():
    metrics = plain(committed("digits"))
    for row in metrics["table"]:
        if (row["method"], row["label_noise"], row["setting"]) == ("ema", 0.2, "article"):
            row["nll"] = {"mean": None, "stderr": None}
    figure, data = suite_figures.draw(metrics, ("rivals",))["rivals"]
    rows, panel = data["20 % wrong labels"], figure.axes[4]
    (ema,) = [i for i, row in enumerate(rows) if row["method"] == "ema"]
    assert rows[ema]["nll"] == {"mean": None, "stderr": None}
    assert panel.get_xlabel() == QUANTITIES["nll"].label
    assert [text.get_text() for text in panel.texts] == ["nan"]
    shown = {int(c.lines[0].get_ydata()[0]) for c in panel.containers}
    assert set(range(len(rows))) - shown == {ema}
