"""What the figures of a suite show, against the records of its runs."""

import copy
import itertools
import json
import statistics

import numpy as np
import pytest
import synthetic_metrics
from synthetic_metrics import FEW, config_of, metrics_from, records_of, suite_metrics

from experiments.configs.recipes import LARGEST, PRODUCTS, product_of
from experiments.configs.suites import FIGURES
from experiments.report import suite_figures
from experiments.results.styles import METRICS, QUANTITIES, style_of

NAMES = ("fig3", "fig4", "fig5", "fig6", "fig7", "rivals", "tuned")
PATHS = ("line", "layerwise_line", "curve")
SIZES = tuple(
    dict.fromkeys(
        name
        for m in range(2, LARGEST + 1)
        for name in (
            *("standard", "line", "layerwise_line", "standard_matched"),
            *(f"swa_{kind}_{m}" for kind in ("constant", "cyclic")),
            *(f"{kind}_{max(m, 3)}" for kind in ("simplex", "layerwise_simplex")),
            f"standard_matched_{max(m, 3)}",
        )
    )
)


@pytest.fixture(scope="module")
def metrics():
    return suite_metrics()


@pytest.fixture(scope="module")
def drawn(metrics):
    return suite_figures.draw(metrics, NAMES)


@pytest.fixture(scope="module")
def everything():
    """Figures of a suite with every product."""
    return suite_figures.draw(suite_metrics(products=tuple(PRODUCTS), num_seeds=2), NAMES)


def runs_of(metrics, method, noise, setting="article"):
    """A method's runs; of a sweep, those with the values with the best validation accuracy."""
    where = {"method": method, "label_noise": noise, "setting": setting}
    cells = {}
    for run in metrics["runs"]:
        if all(run[name] == value for name, value in where.items()):
            cells.setdefault(json.dumps(run["values"]), []).append(run)

    def accuracy(runs):
        found = [run["places"]["midpoint"]["validation"]["accuracy"] for run in runs]
        return statistics.fmean(found)

    return max(cells.values(), key=accuracy)


def numbers(values, scale=100.0):
    """Mean and standard error over the first axis."""
    values = scale * np.asarray(values, float)
    return values.mean(0), values.std(0, ddof=1) / len(values) ** 0.5


def expected_of(metrics, product, noise, metric, setting="article", place=None):
    """Mean and standard error of a product, or of another place of its runs, in its unit."""
    recipe, place = product_of(product)[0], place or product_of(product)[1]
    found = [run["places"][place] for run in runs_of(metrics, recipe, noise, setting)]
    for name in metric.split("."):
        found = [entry[name] for entry in found]
    return numbers(found, QUANTITIES[metric].scale)


def lines_of(ax):
    return {line.get_label(): line for line in ax.get_lines()}


def whisker(container):
    """Half the length of each error bar; nothing if there are none."""
    _, _, bars = container.lines
    segments = [np.asarray(segment) for bar in bars for segment in bar.get_segments()]
    return np.array([np.ptp(segment, axis=0).max() / 2 for segment in segments if len(segment)])


def shown_rows(ax):
    """Value and error of every row with a dot, by its number from the top."""
    rows = {}
    for container in ax.containers:
        line = container.lines[0]
        (x,), (y,) = line.get_xdata(), line.get_ydata()
        rows[int(y)] = (x, *whisker(container))
    return dict(sorted(rows.items()))


def test_figures_come_in_the_order_of_the_names_and_confidences_last(drawn):
    assert list(drawn) == [*NAMES, "reliability", "selection"]


def test_every_name_of_a_figure_may_be_asked_for(metrics):
    assert set(suite_figures.draw(metrics, ("fig1", "fig2", "curvature", "new"))) == {
        *("reliability", "selection")
    }


def test_drawing_changes_no_metrics(metrics, drawn):
    assert metrics == suite_metrics()


def test_numbers_drawn_are_json_without_nan(drawn, everything):
    for _, data in (*drawn.values(), *everything.values()):
        assert json.loads(json.dumps(data, allow_nan=False)) == data


# Along the paths


@pytest.mark.parametrize(("name", "noise"), [("fig3", 0.0), ("fig7", 0.2)])
def test_paths_are_means_over_seeds_with_bands_of_a_standard_error(metrics, drawn, name, noise):
    figure, data = drawn[name]
    ax = figure.axes[0]
    lines, bands = lines_of(ax), ax.collections
    for method, band in zip(PATHS, bands, strict=True):
        runs = runs_of(metrics, method, noise)
        mean, stderr = numbers([[p["accuracy"] for p in run["points"]] for run in runs])
        line = lines[style_of(method).label]
        np.testing.assert_allclose(line.get_xdata(), [p["coords"] for p in runs[0]["points"]])
        np.testing.assert_allclose(line.get_ydata(), mean)
        assert line.get_color() == style_of(method).color
        vertices = band.get_paths()[0].vertices
        for alpha, low, high in zip(line.get_xdata(), mean - stderr, mean + stderr, strict=True):
            heights = vertices[np.isclose(vertices[:, 0], alpha), 1]
            np.testing.assert_allclose([heights.min(), heights.max()], [low, high])
        kept = data["paths"][method]
        np.testing.assert_allclose(kept["accuracy"], mean)
        np.testing.assert_allclose(kept["stderr"], stderr)
        assert kept["num_seeds"] == len(runs) == 4


@pytest.mark.parametrize(
    ("name", "noise", "levels"),
    [
        ("fig3", 0.0, ("standard", "standard_matched", "ema", "ensemble")),
        ("fig7", 0.2, ("standard", "standard_matched", "ema")),
    ],
)
def test_methods_without_a_path_are_levels(metrics, drawn, name, noise, levels):
    figure, data = drawn[name]
    lines = lines_of(figure.axes[0])
    assert list(lines) == [style_of(method).label for method in (*PATHS, *levels)]
    assert list(data["levels"]) == list(levels)
    for method in levels:
        mean, stderr = expected_of(metrics, method, noise, "accuracy")
        np.testing.assert_allclose(lines[style_of(method).label].get_ydata(), mean, rtol=1e-5)
        level = data["levels"][method]
        np.testing.assert_allclose([level["accuracy"], level["stderr"]], [mean, stderr], rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "title"), [("fig3", "Clean labels"), ("fig7", "20 % wrong labels")]
)
def test_beside_the_paths_every_product_of_the_figure_has_a_dot(everything, name, title):
    ax, right = everything[name][0].axes
    assert ax.get_title() == title
    labels = [text.get_text() for text in right.get_yticklabels()]
    assert len(labels) == len(everything[name][1]["dots"]) == len(FIGURES[name][0])
    for method in PATHS:
        assert style_of(method).label in labels


def test_a_size_that_is_missing_breaks_the_line():
    products = ("standard", "line", "swa_constant_5")
    (ax,) = suite_figures.draw(suite_metrics(products=products), ("fig4",))["fig4"][0].axes
    swa = ax.containers[-1].lines[0].get_ydata()
    assert np.isfinite(swa).tolist() == [True, False, False, False, True]


# Dots


@pytest.mark.parametrize(
    ("name", "setting", "shown"),
    [
        ("fig5", "article", ("ece", "scaled.ece", "nll")),
        ("rivals", "article", METRICS),
        ("tuned", "tuned", METRICS),
    ],
)
def test_dots_are_means_with_whiskers_of_a_standard_error(metrics, drawn, name, setting, shown):
    figure, data = drawn[name]
    panels = iter(figure.axes)
    assert list(data) == ["Clean labels", "20 % wrong labels"]
    for (title, entries), noise in zip(data.items(), (0.0, 0.2), strict=True):
        for column, metric in enumerate(shown):
            ax = next(panels)
            assert ax.get_xlabel() == QUANTITIES[metric].label
            assert ax.get_title(loc="left") == (title if column == 0 else "")
            rows = shown_rows(ax)
            assert len(rows) == len(entries)
            for entry, values in zip(entries, rows.values(), strict=True):
                where = entry["method"], noise, metric, setting, entry["place"]
                expected = expected_of(metrics, *where)
                np.testing.assert_allclose(values, expected, rtol=1e-4)
                stored = QUANTITIES[metric].scale * np.array(
                    [entry[metric]["mean"], entry[metric]["stderr"]]
                )
                np.testing.assert_allclose(stored, expected, rtol=1e-4)
                assert entry["num_seeds"] == 4
    assert next(panels, None) is None


def test_rows_of_one_method_can_be_told_apart(drawn, everything):
    for name in ("fig3", "fig5", "fig7", "rivals", "tuned"):
        for figure in (drawn[name][0], everything[name][0]):
            for ax in figure.axes:
                labels = [text.get_text() for text in ax.get_yticklabels()]
                assert len(set(labels)) == len(labels)
    labels = [text.get_text() for text in drawn["tuned"][0].axes[0].get_yticklabels()]
    assert labels[-2:] == ["Layerwise line", "Layerwise line, ensemble (2 passes)"]


def test_rows_say_what_they_cost(everything):
    labels = [text.get_text() for text in everything["rivals"][0].axes[0].get_yticklabels()]
    assert "MC dropout (10 passes)" in labels
    assert "Two independent networks (2 x training, 2 passes)" in labels
    assert "Line" in labels


@pytest.mark.parametrize("name", ["fig5", "rivals"])
def test_a_figure_has_no_other_products_than_its_own(everything, name):
    wanted = {product_of(product) for product in FIGURES[name][0]}
    for entries in everything[name][1].values():
        found = [(product_of(entry["method"])[0], entry["place"]) for entry in entries]
        assert set(found) <= wanted
        assert len(set(found)) == len(found)
        assert len(found) >= len(wanted) - 1  # early stopping has an accuracy alone


# By size


def test_sizes_are_those_of_the_products():
    metrics = suite_metrics(products=SIZES, num_seeds=3)
    figure, data = suite_figures.draw(metrics, ("fig4",))["fig4"]
    families = {
        "simplex": ["standard", "line", *(f"simplex_{m}" for m in range(3, 7))],
        "layerwise_simplex": [
            "standard",
            "layerwise_line",
            *(f"layerwise_simplex_{m}" for m in range(3, 7)),
        ],
        "swa_constant": ["standard", *(f"swa_constant_{m}" for m in range(2, 7))],
        "swa_cyclic": ["standard", *(f"swa_cyclic_{m}" for m in range(2, 7))],
        "standard_matched": [
            "standard",
            "standard_matched",
            *(f"standard_matched_{m}" for m in range(3, 7)),
        ],
    }
    (ax,) = figure.axes
    assert list(data) == list(families)
    for container, (family, names) in zip(ax.containers, families.items(), strict=True):
        mean, stderr = np.transpose([expected_of(metrics, n, 0.0, "accuracy") for n in names])
        line = container.lines[0]
        np.testing.assert_allclose(np.round(line.get_xdata()), range(1, 7))
        np.testing.assert_allclose(line.get_ydata(), mean, rtol=1e-5)
        np.testing.assert_allclose(whisker(container), stderr, rtol=1e-3)
        assert data[family]["m"] == [1, 2, 3, 4, 5, 6]
        np.testing.assert_allclose(data[family]["accuracy"], mean, rtol=1e-5)
        np.testing.assert_allclose(data[family]["stderr"], stderr, rtol=1e-3)
    looks = {
        (line.get_color(), line.get_marker(), line.get_linestyle(), str(line.get_markerfacecolor()))
        for line in (container.lines[0] for container in ax.containers)
    }
    assert len(looks) == len(families)


def test_a_size_that_was_not_trained_is_left_out():
    products = ("standard", "line", "simplex_4", "swa_constant")
    _, data = suite_figures.draw(suite_metrics(products=products), ("fig4",))["fig4"]
    sizes = {family: found["m"] for family, found in data.items()}
    # Five averaged models have two names; other figures need the runs of the short one.
    assert sizes == {"simplex": [1, 2, 4], "swa_constant": [1, 5]}


# Snow


@pytest.mark.parametrize("severities", [(1, 2, 3, 4, 5), (1, 5)])
def test_snow_is_drawn_at_its_severity(severities, monkeypatch):
    monkeypatch.setattr(synthetic_metrics, "SEVERITIES", severities)
    config = config_of()
    metrics = metrics_from(config, records_of(config, ("fig6",)))
    figure, data = suite_figures.draw(metrics, ("fig6",))["fig6"]
    (ax,) = figure.axes
    methods = ["standard", "standard_matched", "ema", "swa_constant_5", "dropout", *PATHS]
    assert data["severities"] == [0, *severities]
    assert list(data["methods"]) == methods
    assert [c.get_label() for c in ax.containers] == [style_of(m).label for m in methods]
    for container, method in zip(ax.containers, methods, strict=True):
        places = [run["places"]["midpoint"] for run in runs_of(metrics, method, 0.0)]
        mean, stderr = numbers(
            [
                [p["accuracy"], *(p["corruptions"]["snow"][str(s)]["accuracy"] for s in severities)]
                for p in places
            ]
        )
        line = container.lines[0]
        assert list(line.get_xdata()) == [0, *severities]
        np.testing.assert_allclose(line.get_ydata(), mean)
        np.testing.assert_allclose(whisker(container), stderr, rtol=1e-6)
        found = data["methods"][method]
        np.testing.assert_allclose(found["accuracy"], mean)
        np.testing.assert_allclose(found["stderr"], stderr)
        assert found["num_seeds"] == len(places) == 4


def test_what_a_sweep_did_not_choose_is_not_drawn():
    config = config_of()
    records = records_of(config)
    chosen = metrics_from(config, records)["chosen"]
    swept = [cell for cell in chosen if cell["setting"] == "article"]
    assert {cell["method"] for cell in swept} == {"dropout", "label_smoothing"}
    before = suite_figures.draw(metrics_from(config, records), NAMES)
    for run in records:
        cell = next(
            (c for c in swept if all(c[k] == run[k] for k in ("method", "label_noise"))), None
        )
        if run["setting"] == "article" and cell and run["values"] != cell["values"]:
            place = run["places"]["midpoint"]
            place["accuracy"] = 0.0
            for found in place["corruptions"]["snow"].values():
                found["accuracy"] = 0.0
            place["reliability"]["weight"] = place["reliability"]["weight"][::-1]
    after = suite_figures.draw(metrics_from(config, records), NAMES)
    assert {name: data for name, (_, data) in after.items()} == {
        name: data for name, (_, data) in before.items()
    }


# Reliability


def test_reliability_pools_the_seeds_at_the_largest_noise(metrics, drawn):
    figure, data = drawn["reliability"]
    methods = ["standard", "ema", "dropout", "label_smoothing", "line", "layerwise_line"]
    axes = [ax for ax in figure.axes if ax.get_title()]
    assert figure.get_suptitle() == "20 % wrong labels, all seeds pooled"
    assert [ax.get_title() for ax in axes] == [style_of(method).label for method in methods]
    assert list(data) == methods
    for ax, method in zip(axes, methods, strict=True):
        bins = [run["places"]["midpoint"]["reliability"] for run in runs_of(metrics, method, 0.2)]
        weight, accuracy, confidence = (
            np.array([b[name] for b in bins]) for name in ("weight", "accuracy", "confidence")
        )
        pooled = (weight * accuracy).sum(0)[1:] / weight.sum(0)[1:]  # the first bin is empty
        heights = [bar.get_height() for bar in ax.containers[0]]
        np.testing.assert_allclose(heights, pooled)
        np.testing.assert_allclose(data[method]["weight"], weight.mean(0))
        np.testing.assert_allclose(np.sum(data[method]["weight"]), 1)
        ece = np.abs((weight * (accuracy - confidence)).mean(0)).sum()
        assert ax.texts[0].get_text() == f"ECE {100 * ece:.1f} %"


def test_of_a_suite_with_clean_labels_alone_reliability_is_that_of_clean_labels():
    metrics = suite_metrics(noise_rates=(0.0,))
    figure, data = suite_figures.draw(metrics, ())["reliability"]
    assert figure.get_suptitle() == "Clean labels, all seeds pooled"
    bins = [run["places"]["midpoint"]["reliability"] for run in runs_of(metrics, "ema", 0.0)]
    weight = np.mean([b["weight"] for b in bins], axis=0)
    np.testing.assert_allclose(data["ema"]["weight"], weight)


# What is missing


@pytest.mark.parametrize("name", ["fig3", "fig4", "fig5", "fig6", "fig7", "rivals", "tuned"])
def test_a_figure_is_the_same_whatever_other_figures_are_made(name):
    config = config_of(num_seeds=2, products=SIZES if name == "fig4" else FEW)
    alone = metrics_from(config, records_of(config, (name,)))
    together = metrics_from(config, records_of(config))
    assert len(alone["runs"]) < len(together["runs"])
    drawn = [suite_figures.draw(metrics, (name,))[name][1] for metrics in (alone, together)]
    assert drawn[0] == drawn[1]


def test_without_runs_nothing_is_drawn():
    config = config_of()
    assert suite_figures.draw(metrics_from(config, []), NAMES) == {}


@pytest.mark.parametrize(
    ("products", "missing"),
    [
        (("standard",), {"fig3", "fig4", "fig7"}),
        (("simplex_3",), {*NAMES, "reliability"}),
        (("early_stopping",), {*NAMES} - {"fig6"}),
        (("line", "sam"), {"fig4", "tuned"}),
    ],
)
def test_figures_without_their_products_are_left_out(products, missing):
    metrics = suite_metrics(products=products, tuning__recipes=("standard",))
    assert set(NAMES) - set(suite_figures.draw(metrics, NAMES)) == missing - {"reliability"}
    assert ("reliability" in suite_figures.draw(metrics, ())) == ("reliability" not in missing)


def test_without_wrong_labels_there_are_clean_ones_alone():
    drawn = suite_figures.draw(suite_metrics(noise_rates=(0.0,)), NAMES)
    assert set(NAMES) - set(drawn) == {"fig7"}
    for name in ("fig5", "rivals", "tuned"):
        assert list(drawn[name][1]) == ["Clean labels"]
        assert len(drawn[name][0].axes) == 3


def test_of_several_noise_rates_the_largest_is_drawn():
    drawn = suite_figures.draw(suite_metrics(num_seeds=2, noise_rates=(0.0, 0.1, 0.4)), NAMES)
    assert drawn["fig7"][0].axes[0].get_title() == "40 % wrong labels"
    assert drawn["reliability"][0].get_suptitle() == "40 % wrong labels, all seeds pooled"
    assert list(drawn["fig5"][1]) == ["Clean labels", "40 % wrong labels"]


@pytest.mark.parametrize(
    ("name", "part"), [("fig6", "corruptions"), ("reliability", "reliability"), ("fig5", "scaled")]
)
def test_figures_without_their_measurements_are_left_out(name, part):
    config = config_of(num_seeds=2)
    records = records_of(config)
    for place in itertools.chain.from_iterable(run["places"].values() for run in records):
        place.pop(part, None)
    metrics = metrics_from(config, records)
    assert set(suite_figures.draw(metrics, NAMES)) == {*NAMES, "reliability", "selection"} - {name}


def test_one_seed_has_no_standard_error():
    drawn = suite_figures.draw(suite_metrics(num_seeds=1), NAMES)
    assert not drawn["fig3"][0].axes[0].collections
    for name in NAMES:
        for ax in drawn[name][0].axes:
            assert all(len(whisker(c)) == 0 or np.isnan(whisker(c)).all() for c in ax.containers)
    for data in drawn["fig6"][1]["methods"].values():
        assert (data["num_seeds"], data["stderr"]) == (1, None)
    for data in drawn["fig3"][1]["paths"].values():
        assert (data["num_seeds"], data["stderr"]) == (1, None)
    for _, data in drawn.values():
        json.dumps(data, allow_nan=False)


def test_a_value_that_is_not_finite_is_null_and_written_in_its_row(metrics):
    metrics = copy.deepcopy(metrics)
    for row in metrics["table"]:
        if (row["method"], row["label_noise"], row["setting"]) == ("ema", 0.2, "article"):
            row["nll"] = {"mean": None, "stderr": None}
    figure, data = suite_figures.draw(metrics, ("rivals",))["rivals"]
    (ema,) = [row for row in data["20 % wrong labels"] if row["method"] == "ema"]
    assert ema["nll"] == {"mean": None, "stderr": None}
    panel = figure.axes[4]
    assert panel.get_xlabel() == QUANTITIES["nll"].label
    assert [text.get_text() for text in panel.texts] == ["nan"]
    rows = data["20 % wrong labels"]
    assert set(range(len(rows))) - set(shown_rows(panel)) == {rows.index(ema)}


# How it looks


def bounds(artist):
    return artist.get_window_extent()


@pytest.mark.parametrize("name", [*NAMES, "reliability"])
@pytest.mark.parametrize("kind", ["drawn", "everything"])
def test_words_are_named_apart_and_within_the_figure(kind, name, request):
    figure = request.getfixturevalue(kind)[name][0]
    figure.draw_without_rendering()
    whole = figure.bbox.padded(1)
    for legend in figure.legends:
        box = bounds(legend)
        assert whole.x0 <= box.x0 < box.x1 <= whole.x1
        assert whole.y0 <= box.y0 < box.y1 <= whole.y1
        for ax in figure.axes:
            assert not box.overlaps(ax.get_tightbbox())
    for ax in figure.axes:
        assert ax.get_legend() is None
        assert ax.get_xlabel()
        rows = [text for text in ax.get_yticklabels() if text.get_visible() and text.get_text()]
        boxes = [bounds(text) for text in rows]
        for first, second in itertools.pairwise(sorted(boxes, key=lambda box: box.y0)):
            assert first.y1 <= second.y0 + 2
        for box, other in itertools.product(boxes, figure.axes):
            assert box.x0 >= whole.x0
            assert other is ax or not box.overlaps(other.bbox)


@pytest.mark.parametrize("name", ["fig3", "fig4", "fig6", "fig7"])
def test_every_line_is_named_in_one_legend(drawn, name):
    figure = drawn[name][0]
    (legend,) = figure.legends
    ax = figure.axes[0]
    labels = ax.get_legend_handles_labels()[1]
    assert len(labels) == len(set(labels)) > 1
    assert sorted(text.get_text() for text in legend.get_texts()) == sorted(labels)
    assert ax.get_ylabel().lower().endswith("test accuracy [%]")


# Which predictions to trust


def test_risks_and_aurocs_are_means_over_the_seeds_of_the_noisiest_labels(metrics, drawn):
    figure, data = drawn["selection"]
    first, *axes = figure.axes
    lines = lines_of(first)
    assert list(data["auroc"]) == ["noise", "shuffled"]
    assert len(axes) == 2
    for method in data["risk_coverage"]:
        places = [run["places"]["midpoint"] for run in runs_of(metrics, method, 0.2)]
        mean, stderr = numbers([place["risk_coverage"]["risk"] for place in places])
        line = lines[style_of(method).label]
        np.testing.assert_allclose(line.get_ydata(), mean)
        coverage = 100 * np.array(places[0]["risk_coverage"]["coverage"])
        np.testing.assert_allclose(line.get_xdata(), coverage)
        np.testing.assert_allclose(data["risk_coverage"][method]["stderr"], stderr)
        for name, found in data["auroc"].items():
            mean, stderr = numbers([place["ood"][name]["auroc"] for place in places])
            assert found[method] == {"mean": pytest.approx(mean), "stderr": pytest.approx(stderr)}
    for ax, found in zip(axes, data["auroc"].values(), strict=True):
        shown = [x for x, *_ in shown_rows(ax).values()]
        np.testing.assert_allclose(shown, [entry["mean"] for entry in found.values()])


def test_without_foreign_images_risks_stand_alone(metrics):
    bare = copy.deepcopy(metrics)
    for run in bare["runs"]:
        run["places"].get("midpoint", {}).pop("ood", None)
    figure, data = suite_figures.draw(bare, ())["selection"]
    assert len(figure.axes) == 1
    assert data["auroc"] == {}
