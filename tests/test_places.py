"""What a stack predicts with: every place's metrics are those of the networks it stands for."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import sklearn.metrics
from reference_metrics import assert_metrics, risks
from stacks import normal
from untrained import TEST, VALIDATION, untrained

import subspace_jax as ss
from experiments.data.corrupted import Corrupted
from experiments.data.sets import Split
from experiments.evaluation import evaluate, predict, predictors
from experiments.evaluation.points import DRAWS_STREAM
from experiments.evaluation.shifted import Shifted
from experiments.training import model

SPLITS = {"test": TEST, "validation": VALIDATION}
FIRST, MIDDLE, LAST = range(3)  # the points of the line

# Whole splits are batches, and recalibration sees all images whatever the seed.
CHANGES = {
    "model__widths": (4,),
    "model__dropout": 0.3,
    "evaluation__num_points": 3,
    "evaluation__num_samples": 4,
    "evaluation__batch_size": 20,
    "evaluation__recalibration_batch_size": 32,
    "evaluation__recalibration_augment": False,
    "evaluation__adapt_to_corruption": True,
}
ROBUST = ("midpoint", "ensemble", "mc ensemble")
CORRUPTED = {
    "dark": {1: TEST.images // 2, 4: TEST.images // 8},
    "pale": {1: 128 + TEST.images // 2, 4: 224 + TEST.images // 8},
}
NOISE = np.random.default_rng(5).integers(0, 256, (30, 8, 8, 1), np.uint8)
SHIFTED = Shifted(
    {
        name: {
            severity: functools.partial(Corrupted, Split(images, TEST.labels), "made up")
            for severity, images in severities.items()
        }
        for name, severities in CORRUPTED.items()
    },
    {"same": lambda: TEST.images, "noise": lambda: NOISE},
)
close = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4)


def evaluated(made, splits=SPLITS, shifted=SHIFTED, robust=ROBUST):
    return evaluate.evaluate(*made[:2], splits, made.settings, shifted=shifted, robust=robust)


@pytest.fixture(scope="module")
def line():
    return untrained("line", **CHANGES)


@pytest.fixture(scope="module")
def results(line):
    return evaluated(line)


@pytest.fixture(scope="module")
def networks(line):
    """The ends of the line and the midpoint, recalibrated on clean images."""
    weights = jnp.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])
    return predict.recalibrated(line.run, predict.mixtures(line.stack, weights), line.settings)[0]


@pytest.fixture(scope="module")
def logits(line, networks):
    """Their logits `[3, N, K]` by the name of the split."""
    return {name: logits_of(line, networks, split.images) for name, split in SPLITS.items()}


def logits_of(made, networks, images):
    found = predict.predict(made.run.program.model, networks, images, made.settings)
    return np.asarray(found, np.float64)


def probs_of(logits):
    """The mean of the members' probabilities."""
    return scipy.special.softmax(np.asarray(logits, np.float64), axis=-1).mean(axis=0)


def assert_short(record, probs, labels):
    """Of records that keep three metrics."""
    assert record.keys() == {"accuracy", "nll", "ece"}
    assert record["accuracy"] == pytest.approx((probs.argmax(1) == labels).mean())
    assert record["nll"] == pytest.approx(
        sklearn.metrics.log_loss(labels, probs, labels=range(probs.shape[1])), rel=1e-3
    )
    close(record["ece"], ss.metrics.ece(probs.astype(np.float32), labels, num_bins=10))


def assert_place(record, probs, passes):
    """`probs`: by the name of the split."""
    assert record["inference_passes"] == passes
    assert record["num_bins"] == 10
    assert_metrics(record, probs["test"], TEST.labels)
    assert_short(record["validation"], probs["validation"], VALIDATION.labels)


# One prediction


def test_all_metrics_are_those_of_the_probabilities():
    probs = scipy.special.softmax(2 * normal(0, 90, 3).astype(np.float64), axis=1)
    labels = np.random.default_rng(1).integers(0, 3, 90)
    record = predictors.all_metrics(np.log(probs), labels, num_bins=7)
    assert_metrics(jax.device_get(record), probs, labels, num_bins=7)


@pytest.mark.parametrize("size", [5, 130])
def test_a_curve_of_risks_keeps_its_ends_and_at_most_fifty_points(line, size):
    labels = np.random.default_rng(0).integers(0, 3, size).astype(np.int32)
    probs = scipy.special.softmax(normal(1, size, 3), axis=1)
    splits = {"test": Split(np.zeros((size, 8, 8, 1), np.uint8), labels)}
    work = predictors.Evaluation(line.run, splits, line.settings, predict.no_wrap, SHIFTED, ())
    record = work.place({"test": jnp.log(probs)}, 3)
    assert record["inference_passes"] == 3
    curve = record["risk_coverage"]
    coverage = np.asarray(curve["coverage"])
    assert len(coverage) == min(size, 50)
    assert (np.diff(coverage) > 0).all()
    close([coverage[0], coverage[-1]], [1 / size, 1])
    kept = np.round(coverage * size).astype(int)
    close(curve["risk"], risks(probs, labels)[kept - 1])


# Points and ensembles


def test_the_midpoint_is_one_network(results, logits):
    probs = {name: probs_of(values[[MIDDLE]]) for name, values in logits.items()}
    assert_place(results["places"]["midpoint"], probs, passes=1)


def test_endpoints_are_the_mean_of_the_metrics_of_single_networks(results):
    first, _, last = results["points"]
    record = results["places"]["endpoints"]
    assert record["inference_passes"] == 1
    for name in ("accuracy", "nll", "brier", "ece"):
        assert first[name] != last[name]
        assert record[name] == pytest.approx((first[name] + last[name]) / 2)


def test_an_ensemble_is_the_mean_of_its_members_probabilities(results, logits):
    probs = {name: probs_of(values[[FIRST, LAST]]) for name, values in logits.items()}
    assert_place(results["places"]["ensemble"], probs, passes=2)


def test_a_temperature_is_chosen_on_validation_and_scores_test(results, logits):
    for name, members in (("midpoint", [MIDDLE]), ("ensemble", [FIRST, LAST])):
        record = results["places"][name]
        log_probs = {split: np.log(probs_of(values[members])) for split, values in logits.items()}
        expected = ss.calibration.fit_temperature(log_probs["validation"], VALIDATION.labels)
        close(record["temperature"], expected)
        scaled = scipy.special.softmax(log_probs["test"] / record["temperature"], axis=1)
        assert_short({"accuracy": record["accuracy"]} | record["scaled"], scaled, TEST.labels)
        assert abs(record["temperature"] - 1) > 0.05


def test_an_ensemble_is_calibrated_member_by_member_and_as_one(results, logits):
    ensemble = results["places"]["ensemble"]
    members = ensemble["temperatures"]["per_member"]
    alone = [
        ss.calibration.fit_temperature(logits["validation"][i], VALIDATION.labels)
        for i in (FIRST, LAST)
    ]
    close(members["temperature"], alone)
    scaled = logits["test"][[FIRST, LAST]] / np.array(members["temperature"])[:, None, None]
    accuracy = {"accuracy": (probs_of(scaled).argmax(1) == TEST.labels).mean()}
    assert_short(accuracy | members["scaled"], probs_of(scaled), TEST.labels)

    together = ensemble["temperatures"]["after_average"]
    close(together["temperature"], ensemble["temperature"])
    for name, value in ensemble["scaled"].items():
        close(together["scaled"][name], value)
    assert abs(together["scaled"]["nll"] - members["scaled"]["nll"]) > 1e-3
    assert "temperatures" not in results["places"]["midpoint"]


# Monte-Carlo dropout


def passes_of(made, params, stats, images):
    """Logits of every pass in one batch, by Flax alone."""
    keys = jax.random.fold_in(jax.random.key(made.run.seed), DRAWS_STREAM)
    return [
        made.run.program.model.network.apply(
            {"params": params, "batch_stats": stats},
            jnp.asarray(images, jnp.float32) / 255,
            train=False,
            dropout=True,
            rngs={"dropout": key},
        )
        for key in jax.random.split(keys, made.settings.num_samples)
    ]


@pytest.fixture(scope="module")
def dropped(line, networks):
    """Predicted probabilities of Monte-Carlo dropout, of `images`."""
    middle = jax.tree.map(lambda x: x[MIDDLE], networks)
    return lambda images: probs_of(jnp.stack(passes_of(line, *middle, images)))


def test_monte_carlo_dropout_is_the_mean_of_the_probabilities_of_its_passes(results, dropped):
    probs = {name: dropped(split.images) for name, split in SPLITS.items()}
    record = results["places"]["mc ensemble"]
    assert_place(record, probs, passes=4)
    assert abs(record["nll"] - results["places"]["midpoint"]["nll"]) > 1e-3


def test_the_seed_of_a_run_drops_the_units(line, results):
    again, other = (
        evaluated(line._replace(run=line.run._replace(seed=seed)), shifted=Shifted())
        for seed in (0, 1)
    )
    nll = {
        name: [found["places"][name]["nll"] for found in (results, again, other)]
        for name in ("midpoint", "mc ensemble")
    }
    assert nll["mc ensemble"][0] == nll["mc ensemble"][1]
    assert abs(nll["mc ensemble"][2] - nll["mc ensemble"][0]) > 1e-3
    assert nll["midpoint"][2] == pytest.approx(nll["midpoint"][0], rel=1e-4)


def test_foreign_images_are_predicted_by_passes_of_dropout_too(results, dropped):
    inside, outside = dropped(TEST.images).max(1), dropped(NOISE[:20]).max(1)
    outside = np.concatenate([outside, dropped(np.r_[NOISE[20:], NOISE[-1:].repeat(10, 0)]).max(1)])
    record = results["places"]["mc ensemble"]["ood"]["noise"]
    labels = np.repeat([1, 0], [20, 30])
    expected = sklearn.metrics.roc_auc_score(labels, np.concatenate([inside, outside[:30]]))
    assert record["auroc"] == pytest.approx(expected, abs=1e-3)


# Other images


MEMBERS = {"midpoint": [MIDDLE], "ensemble": [FIRST, LAST]}


@pytest.mark.parametrize("place", MEMBERS)
def test_corrupted_images_are_predicted_with_statistics_of_clean_ones(
    line, results, networks, place
):
    record = results["places"][place]
    assert record["corruptions"].keys() == CORRUPTED.keys()
    for name, severities in CORRUPTED.items():
        assert list(record["corruptions"][name]) == ["1", "4"]
        for severity, images in severities.items():
            logits = logits_of(line, networks.take(MEMBERS[place]), images)
            found = record["corruptions"][name][str(severity)]
            assert_short(found, probs_of(logits), TEST.labels)


@pytest.mark.parametrize("place", MEMBERS)
def test_adapted_networks_predict_with_statistics_of_the_corrupted_images(
    line, results, networks, place
):
    record = results["places"][place]
    moved = []
    for name, severities in CORRUPTED.items():
        for severity, images in severities.items():
            # In training mode a batch of all of them normalises itself.
            logits = [
                model.training_logits(
                    line.run.program.model,
                    jax.tree.map(lambda x, i=i: x[i], networks.params),
                    jnp.asarray(images),
                )[0]
                for i in MEMBERS[place]
            ]
            found = record["adapted_corruptions"][name][str(severity)]
            assert_short(found, probs_of(jnp.stack(logits)), TEST.labels)
            moved.append(abs(found["nll"] - record["corruptions"][name][str(severity)]["nll"]))
    assert max(moved) > 0.02


@pytest.mark.parametrize("place", ROBUST)
@pytest.mark.parametrize("kind", ["corruptions", "adapted_corruptions"])
def test_the_raw_mce_is_the_mean_error(results, place, kind):
    record = results["places"][place]
    errors = [1 - each["accuracy"] for by in record[kind].values() for each in by.values()]
    assert record[f"{kind}_mce"]["raw"] == pytest.approx(np.mean(errors))
    assert f"{kind}_mapping" not in record


def test_dropout_of_corrupted_images_is_of_the_network_with_clean_statistics(results, dropped):
    record = results["places"]["mc ensemble"]["corruptions"]
    for name, severities in CORRUPTED.items():
        for severity, images in severities.items():
            assert_short(record[name][str(severity)], dropped(images), TEST.labels)


def test_logits_are_restricted_to_the_classes_that_corrupted_images_have(line, networks):
    columns = np.array([2, 0])
    images, labels = TEST.images[:20], np.arange(20, dtype=np.int32) % 2
    corrupted = Corrupted(Split(images, labels), "two of three classes", columns)
    shifted = Shifted({"some": {2: lambda: corrupted}})
    record = evaluated(line, shifted=shifted, robust=("midpoint",))["places"]["midpoint"]
    probs = probs_of(logits_of(line, networks.take([MIDDLE]), images)[..., columns])
    assert_short(record["corruptions"]["some"]["2"], probs, labels)
    for kind in ("corruptions", "adapted_corruptions"):
        assert record[f"{kind}_mapping"] == "two of three classes"


@pytest.mark.parametrize("place", ROBUST)
def test_images_of_the_test_split_cannot_be_told_from_it(results, place):
    same = results["places"][place]["ood"]["same"]
    assert same["auroc"] == pytest.approx(0.5, abs=1e-6)
    assert same["fpr95"] == pytest.approx(0.95)


@pytest.mark.parametrize("place", MEMBERS)
def test_foreign_images_are_told_by_their_confidence(line, results, networks, logits, place):
    inside = probs_of(logits["test"][MEMBERS[place]]).max(1)
    outside = probs_of(logits_of(line, networks.take(MEMBERS[place]), NOISE)).max(1)
    record = results["places"][place]["ood"]["noise"]
    labels = np.repeat([1, 0], [len(inside), len(outside)])
    expected = sklearn.metrics.roc_auc_score(labels, np.concatenate([inside, outside]))
    assert record["auroc"] == pytest.approx(expected, abs=1e-3)
    accepted = outside >= np.sort(inside)[len(inside) // 20]
    assert record["fpr95"] == pytest.approx(accepted.mean(), abs=1e-3)


def test_other_images_are_made_only_for_the_places_that_predict_them(line, results):
    def never():
        raise AssertionError("made")

    never_made = Shifted({"dark": {1: never}}, {"noise": never})
    found = evaluated(line, shifted=never_made, robust=())["places"]
    kinds = {f"{prefix}corruptions{end}" for prefix in ("", "adapted_") for end in ("", "_mce")}
    for name, record in results["places"].items():
        if name in ROBUST:
            assert record.keys() - found[name].keys() == kinds | {"ood"}
        else:
            assert record.keys() == found[name].keys()


def test_statistics_of_corrupted_images_are_measured_only_if_asked_for(line):
    made = line._replace(settings=line.settings._replace(adapt_to_corruption=False))
    record = evaluated(made)["places"]["midpoint"]
    assert "corruptions" in record
    assert not [name for name in record if name.startswith("adapted")]


# What validation data choose


def test_the_chosen_point_is_the_one_of_lowest_validation_nll(results):
    chosen = results["places"]["chosen point"]
    best = min(results["points"], key=lambda point: point["validation"]["nll"])
    assert chosen["coords"] == best["coords"]
    for name in ("accuracy", "nll", "ece", "brier"):
        assert chosen[name] == pytest.approx(best[name], rel=1e-5)
    assert chosen["validation"]["nll"] == pytest.approx(best["validation"]["nll"], rel=1e-5)


@pytest.fixture(scope="module")
def snapshots():
    changes = CHANGES | {"schedule__num_models": 3, "optimizer__warmup_epochs": 0, "num_epochs": 6}
    return untrained("snapshot", **(changes | {"model__dropout": 0.0}))


@pytest.fixture(scope="module")
def of_snapshots(snapshots):
    return evaluated(snapshots)["places"]


def mixed(made, weights):
    """Probabilities of mixtures `[P, n]`, `[P, N, K]` by the name of the split."""
    params = predict.mixtures(made.stack, jnp.asarray(weights, jnp.float32))
    logits, _, _ = predict.predict_networks(made.run, params, SPLITS, made.settings)
    return {
        name: scipy.special.softmax(np.asarray(values, np.float64), axis=-1)
        for name, values in logits.items()
    }


def test_snapshots_predict_as_their_ensemble_and_their_soups(snapshots, of_snapshots):
    names = {"midpoint", "endpoints", "ensemble", "greedy soup"}
    assert of_snapshots.keys() == names
    probs = mixed(
        snapshots, np.r_[np.eye(3), [[1 / 3] * 3, of_snapshots["greedy soup"]["weights"]]]
    )
    members = {name: values[:3].mean(axis=0) for name, values in probs.items()}
    assert_place(of_snapshots["ensemble"], members, passes=3)
    for i, place in ((3, "midpoint"), (4, "greedy soup")):
        assert_place(of_snapshots[place], {name: x[i] for name, x in probs.items()}, passes=1)


@pytest.mark.parametrize("members", [[0], [0, 1]])
def test_a_greedy_soup_keeps_what_does_not_harm_it_on_validation_data(snapshots, members):
    # The third network has the weights of the soup of the others, and never predicts as it does.
    third = jax.tree.map(lambda x: x[:2].mean(axis=0), snapshots.stack)
    third["Dense_0"] = jax.tree.map(lambda x: -3 * x, third["Dense_0"])
    stack = jax.tree.map(lambda x, y: x.at[2].set(y), snapshots.stack, third)
    made = snapshots._replace(stack=stack)

    def predicted(members):
        weights = np.isin(range(3), members)[None] / len(members)
        return mixed(made, weights)["validation"][0].argmax(1)

    validation = VALIDATION._replace(labels=predicted(members).astype(np.int32))

    def score(members):
        return (predicted(members) == validation.labels).mean()

    soup = []
    for i in sorted(range(3), key=lambda i: -score([i])):
        if not soup or score([*soup, i]) >= score(soup):
            soup.append(i)
    assert sorted(soup) == members
    splits = {"test": TEST, "validation": validation}
    found = evaluated(made, splits, Shifted())["places"]["greedy soup"]
    close(found["weights"], np.isin(range(3), soup) / len(soup))
    assert found["validation"]["accuracy"] == pytest.approx(score(soup))


@pytest.mark.parametrize(
    ("recipe", "names"),
    [
        ("standard", {"midpoint"}),
        ("swag", {"midpoint", "ensemble"}),
        ("line_sam", {"midpoint", "endpoints", "ensemble", "chosen point"}),
    ],
)
def test_methods_have_the_places_that_belong_to_them(recipe, names):
    changes = {"average__num_samples": 2, "num_epochs": 30, "optimizer__warmup_epochs": 0}
    made = untrained(recipe, **(CHANGES | changes))
    found = evaluated(made, shifted=Shifted())["places"].keys()
    assert found == names | {"mc ensemble"}


def test_without_validation_images_nothing_is_chosen(line, results):
    found = evaluated(line, {"test": TEST})["places"]
    assert found.keys() == {"midpoint", "endpoints", "ensemble", "mc ensemble"}
    chosen = {"temperature", "scaled", "validation", "temperatures"}
    for name, record in found.items():
        both = results["places"][name]
        assert record.keys() == both.keys() - chosen
        chex.assert_trees_all_close(record, {key: both[key] for key in record}, rtol=1e-5)


def test_without_test_images_there_are_validation_metrics_alone(line, results):
    found = evaluated(line, {"validation": VALIDATION})["places"]
    assert found.keys() == {"midpoint", "ensemble", "mc ensemble"}
    for name, record in found.items():
        assert record.keys() == {"inference_passes", "validation"}
        both = results["places"][name]
        chex.assert_trees_all_close(record, {key: both[key] for key in record}, rtol=1e-5)
