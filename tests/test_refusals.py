"""What the library refuses: a sentence with the values and the fix."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from matplotlib.figure import Figure

import subspace_jax as ss
from subspace_jax import (
    averaging,
    calibration,
    corruptions,
    detection,
    landscape,
    metrics,
    plotting,
    sharding,
    tree,
)
from subspace_jax.contrib import alignment, complexes, lora, sharpness, swag

KEY = jax.random.key(0)
with_ = functools.partial
PROBS, LABELS = np.full((24, 4), 0.25, np.float32), np.zeros(24, int)
LAYERS = {"a": PROBS[None].repeat(2, 0), "b": PROBS[None].repeat(2, 0)}
TRIANGLE, LINE = np.float32([[0, 0], [4, 0], [0, 2]]), np.float32([[0, 0], [1, 0], [2, 0]])
PLANE = np.mgrid[:3, :4].astype(float)
BINS = metrics.Reliability([0.4, 0.6], [0.5, 0.6], [0.2, 0.8], [0.0, 0.5, 1.0])
UNITS = {"g": (("in", 1), ("out", 0))}


def ones(*shape):
    return np.ones(shape, np.float32)


ONE, OTHER = {"w": ones(2, 3)}, {"w": ones(2, 4)}
BASE = {"kernel": ones(6, 5), "bias": ones(5), "steps": np.int32(7)}
SMALL = {"in": ones(2, 3), "out": ones(3, 4)}
IMAGES = ones(1, 32, 32, 3)
QKV, HEAD = ("query", "key", "value"), {"kernel": ones(6, 2, 3), "bias": ones(2, 3)}
LINKS = {
    "ema": averaging.ema(0.5),
    "swa": averaging.swa(1, 1),
    "swag": swag.swag(1, 1, rank=2),
    "snapshots": averaging.snapshots(1, 1, num_models=2),
}
VISITS = (averaging.swa, with_(swag.swag, rank=2), with_(averaging.snapshots, num_models=2))
PAIRED = (metrics.disagreement, metrics.total_variation)
BINNED = (
    *(metrics.reliability, metrics.ece, metrics.max_calibration_error),
    *(metrics.adaptive_ece, metrics.classwise_ece),
)
LABELLED = (
    *(metrics.accuracy, metrics.nll, metrics.brier, metrics.brier_decomposition, metrics.aurc),
    *(metrics.smooth_ece, *BINNED),
)
OF_STACKS = (tree.num_stacked, tree.gram, with_(tree.mix, ones(2)))
OF_KERNELS = (ss.squared_cosines, ss.cosine_penalty, ss.distances)
per_member = with_(calibration.fit_ensemble_temperature, mode="per_member")
fog = with_(corruptions.corrupt, "fog", KEY)


def update(link):
    return link.update(ONE, link.init(ONE))


def chosen(name):
    return lambda path, leaf: name in str(path)


def deltas(rank=2, n=3, **options):
    return ss.simplex(n).init(KEY, lambda key: lora.init(key, BASE, rank, **options))


def train(num_samples):
    loss_fn, optimizer = lambda params, key, batch: (params.sum(), {}), optax.sgd(0.1)
    step = ss.make_train_step(ss.line(), loss_fn, optimizer, num_samples=num_samples)
    return step(ss.TrainState.create(ones(2, 4), optimizer), KEY, ones(6, 2))


LOSSES = [
    (r"float32\[\]", lambda params, key, batch: params.sum()),
    (r"float32\[\] and NoneType", lambda params, key, batch: (params.sum(), None)),
    (r"float32\[4\] and dict", lambda params, key, batch: (params, {})),
]


def bare_loss(loss_fn):
    step = ss.make_train_step(ss.line(), loss_fn, optax.sgd(0.1))
    step(ss.TrainState.create(ones(2, 4), optax.sgd(0.1)), KEY, None)


def top_eigenvalue(like):
    return landscape.top_eigenvalue(lambda v: v, like, KEY, num_iterations=3)


def recalibrate(stats):
    stats_fn = lambda params, x: jax.tree.map(lambda s: s + x.mean(0), stats)
    return ss.recalibrate(stats_fn, None, [ones(2, 3)])


def draw(name, *arguments, **options):
    return getattr(plotting, name)(*arguments, Figure().subplots(), **options)


def contour(values=PLANE[0], corners=None, **options):
    return draw("contour", *PLANE, values, endpoints_xy=corners, label="Loss", **options)


BATCHED = (
    ("recalibrate", ss.recalibrate, moments := lambda p, x: {}, 1.0),
    ("predict", ss.predict, moments, 1.0),
)
# Part of the sentence, the function, and its arguments.
REFUSED = [
    # Predictions
    ("predict got 0 batches; give it at least", ss.predict, jnp.dot, ones(2), []),
    ("average='mean' is unknown; use 'probabi", ss.ensemble, ones(2, 5, 4), "mean"),
    (r"shape \[2, 2, 5, 4\]; stack the members", ss.ensemble, ones(2, 2, 5, 4)),
    *((f"{name} got an array of shape", f, *a, ones(4, 3)) for name, f, *a in BATCHED),
    (r"returned \[3\]; let it return one", ss.predict, lambda p, x: x[:, 0], 1.0, [ones(3, 2)]),
    ("returned a dict; let", ss.predict, lambda p, x: {"head": x}, 1.0, [ones(3, 2)]),
    ("no array with an axis of examples", ss.recalibrate, lambda p, x: {}, 1.0, [1.0]),
    ("probs holds 3; pass probabilities", metrics.ece, 3 * PROBS + 2.25, LABELS),
    ("log_probs holds 0.25; pass log-prob", metrics.nll, PROBS, LABELS),
    ("probs is an object of type list", metrics.accuracy, PROBS.tolist(), LABELS),
    ("probs has dtype complex64; pass real", metrics.ece, np.complex64(1j) * PROBS, LABELS),
    # Subspaces
    ("of type dict instead of a function", ss.line().init, KEY, ONE),
    ("got as its key what is an object of type dict", ss.line().sample, ONE, KEY),
    ("type object and can't|type object; stack", ss.stack, [{"w": object()}]),
    ("weights or coordinates of type list are no array", ss.mix, [0.5, 0.5], LAYERS),
    (r"positions \(0.5,\) do not place 1", with_(ss.line().grow, positions=(0.5,)), [ones(3)]),
    ("degree 0 has no ends; use a degree >= 1", ss.bezier, 0),
    ("simplex of 0 endpoints is empty; use at least 1", ss.simplex, 0),
    ("3 networks but the subspace has 2 .* `init`", ss.line().point, ones(3, 4), 0.5),
    (r"shape \[3\] but a point of .* 2 .* has shape \[\];", ss.line().point, ones(2, 4), ones(3)),
    ("to 1.1 instead of 1; norm", ss.simplex(2).point, ones(2, 4), np.float32([0.5, 0.6])),
    ("All 2 kernels are in 1 layer", ss.layerwise(ss.line()).sample_coords, KEY, LAYERS),
    ("got 4 networks but the subspace has 3", ss.simplex(3).grow, [ONE] * 4),
    (r"leaf \['w'\]: \[2, 3\] and \[2, 4\]; stack networks", ss.simplex(3).grow, [ONE, OTHER]),
    ("noise is 0.1 but there is no key to .* `key`", with_(ss.line().grow, noise=0.1), [ONE]),
    (r"\(0, 3\) do .* to 2", with_(ss.simplex(3).grow, positions=(0, 3)), [ONE, ONE]),
    ("a number of its own", with_(ss.simplex(3).grow, positions=(1, 1)), [ONE, ONE]),
    # Trees of networks
    *(("has 0 leaves; .* needs at least 1", f, {}) for f in OF_STACKS),
    *((r"\['a'\] is a scalar and has no endpoint", f, {"a": ones()}) for f in OF_STACKS),
    *((r"\['a'\] has 2 .* \['b'\] has 3;", f, {"a": ones(2), "b": ones(3)}) for f in OF_STACKS),
    ("stack got 0 networks; give it at least 1", ss.stack, []),
    (r"Networks 0 and 1 .*: leaf \['v'\] is in one", ss.stack, [ONE, {"v": ones(2)}]),
    ("structure: their containers are others", ss.stack, [[ones(2)], (ones(2),)]),
    (r"\[3\] do not fit leaf \['w'\] of a stack of 2 networks;", ss.mix, ones(3), ONE),
    ("None of the 1 leaves .* let `spans` return True", ss.split, {"a": 7}),
    ("combine got 0 trees; give it the parts", ss.combine),
    (r"Leaf \['w'\] is in 2 of the trees of `combine`; ", ss.combine, ONE, ONE),
    ("trees of `combine` differ in structure: ", ss.combine, ONE, {"v": 1.0}),
    # Training
    ("num_samples is 0; use at least 1", train, 0),
    ("batch of 6 examples can't be split into 4 equal chunks; .* divisor", train, 4),
    *(("has 2; use numbers from 0 to 1", ss.freeze([i]).update, ONE, ()) for i in (-1, 2)),
    *(("None of the 1 leaves .* pass `select`", f, {"w": ones(2, 3)}) for f in OF_KERNELS),
    ("pairs but there is 1 endpoint; .* at least", ss.cosine_penalty, ones(1, 2, 3)),
    *((f"{name} needs the parameters; pass them to", update, f) for name, f in LINKS.items()),
    *(("start_step=-1 .*; use start_step >= 0", link, -1, 1) for link in VISITS),
    *(("every=0; use .* every >= 1", link, 0, 0) for link in VISITS),
    ("num_models=0; keep at least 1 network", averaging.snapshots, 0, 1, 0),
    ("no snapshots; put snapshots", averaging.snapshots_of, LINKS["swa"].init(ONE)),
    ("holds no swag; put swag", swag.swag_sample, LINKS["swa"].init(ONE), KEY),
    ("rank=1 deviations have no covariance; keep at least 2", with_(swag.swag, rank=1), 0, 1),
    ("shape .*; give one for each of 1", averaging.greedy_soup, None, 0.5),
    ("grad_fn must be provided", sharpness.sam(optax.sgd(1), 1).update, ONE, (), ONE),
    ("recalibrate got 0 examples; give it at least 1", ss.recalibrate, None, None, []),
    (r"\['mean'\] of .* a pair `mean` and `var`; let stats", recalibrate, {"mean": 0}),
    (r"Leaf \['count'\]", recalibrate, {"mean": 0, "var": 1, "count": 2}),
    # Metrics
    *(
        (r"weights have shape \(23,\) .* \(24, 4\): pass", with_(f, weights=ones(23)), PROBS, other)
        for functions, other in ((LABELLED, LABELS), (PAIRED, PROBS))
        for f in functions
    ),
    *((r"labels have shape \(4, 4\)", f, PROBS, np.eye(4, dtype=int)) for f in LABELLED),
    *(("labels have dtype float32", f, PROBS, ones(24)) for f in LABELLED),
    *((r"\(2, 24, 4\) instead of", f, np.stack(2 * [PROBS]), LABELS) for f in LABELLED),
    *(("num_bins is 0 but", with_(f, num_bins=0), PROBS, LABELS) for f in BINNED),
    *((r"\(24, 4\) and \(24, 3\): pass", f, PROBS, PROBS[:, 1:]) for f in PAIRED),
    (r"errors has shape \[5\] and .* None; give", metrics.mean_corruption_error, ones(5)),
    (r"\[2, 5\] .* \[2, 3\];", metrics.mean_corruption_error, ones(2, 5), ones(2, 3)),
    (r"scores_out have shape \[0\]; pass one", detection.auroc, ones(3), ones(0)),
    (r"is not a rate in \(0, 1\]; .* 0.95", detection.fpr_at_tpr, ones(3), ones(3), 1.5),
    ("labels have shape", detection.risk_coverage, PROBS, LABELS[1:]),
    (r"\(24, 4\); stack the members to \[M, N, K\]", metrics.mutual_information, PROBS),
    (r"\(4,\) instead of \[N, K\]", detection.max_logit, PROBS[0]),
    ("temperature=0 is not above 0", detection.energy_score, PROBS, 0),
    # Calibration
    ("0 validation examples; hold", calibration.fit_temperature, ones(0, 4), LABELS[:0]),
    (r"\[2\] do not fit logits of .* \[2, 3\]", calibration.apply_temperature, ones(2, 3), ones(2)),
    *(
        ("mode='members' is unknown; use 'per_member' or", with_(f, mode="members"), PROBS[None], 1)
        for f in (calibration.fit_ensemble_temperature, calibration.apply_ensemble_temperature)
    ),
    ("'mean' is unknown", with_(per_member, average="mean"), PROBS[None], LABELS),
    ("'ece' is unknown", with_(calibration.choose_point, criterion="ece"), PROBS[None], LABELS),
    ("alpha=1.5 is not in", with_(calibration.conformal_threshold, alpha=1.5), PROBS, LABELS),
    ("'raps' is unknown; use", with_(calibration.prediction_sets, method="raps"), PROBS, 0.5),
    (r"threshold has shape \(2,\); give one", calibration.prediction_sets, PROBS, ones(2)),
    ("give .* 1 point at at least 1 val", calibration.choose_point, ones(0, 24, 4), LABELS),
    # Landscape
    ("3 networks but the stack holds 2; stack the", landscape.plane, ones(2, 4)),
    ("collinear.* are 1, 2, 1 and .* height .*; choose", landscape.plane, LINE),
    ("coincide: .* are 0, 5, 5 and .*; choose", landscape.plane, np.float32([[0], [0], [5]])),
    ("resolution 1 covers no area", landscape.grid, landscape.plane(TRIANGLE), 1),
    ("margin of -0.1 cuts", landscape.grid, landscape.plane(TRIANGLE), 5, -0.1),
    (r"\[5, 2\] but the stack holds 3", landscape.along, jnp.sum, TRIANGLE, ones(5, 2)),
    (r"losses has shape \[3\] and alphas \[2\];", landscape.barrier, ones(3), ones(2)),
    ("length of at least 2", landscape.barrier, ones(1), ones(1)),
    ("from 1 to 0.5 at entry 2; sort", landscape.barrier, ones(3), np.float32([0, 1, 0.5])),
    ("num_iterations=0", with_(landscape.top_eigenvalue, num_iterations=0), jnp.sin, ONE, KEY),
    # Corruptions
    ("severity is 6; choose 1, 2", fog, IMAGES, 6),
    ("'mist'; choose one of gaussian_noise, .*rate", corruptions.corrupt, "mist", KEY, IMAGES, 1),
    ("images are uint8; give floats", fog, np.uint8(IMAGES), 1),
    (r"S 32, 64 or 224 \(repeat the channel of", fog, ones(2, 32, 32, 1), 1),
    ("S 32, 64 or 224", fog, ones(2, 32, 64, 3), 1),
    # Meshes of the eight devices that the tests have
    ("for 3 devices but there are 8; .* 1, 2, 4, 8", sharding.make_mesh, "data=3"),
    *(("is no axis and size", sharding.make_mesh, s) for s in ("a=2", "data=2,data=4", "data=0")),
    ("endpoint=1 or 2", sharding.stack_shardings, sharding.make_mesh("endpoint=8"), ones(6)),
    ("20 examples .* size of 16 or 24", sharding.batch_sharding, sharding.make_mesh(), 20),
    # Figures
    ("mean has 3 entries but alphas has 4", draw, "path", ones(4), ones(3)),
    (r"\(4, 1\) but must be a vector", draw, "path", ones(4, 1), ones(4)),
    ("give the 3 edges", draw, "reliability_diagram", BINS._replace(edges=[0, 1])),
    ("all 2 bins have weight 0", draw, "reliability_diagram", BINS._replace(weight=[0, 0])),
    (r"\(3, 4\), \(3, 4\) and \(12,\); give three arrays", contour, PLANE[0].ravel()),
    (r"endpoints_xy has shape \(2, 2\) and names has 3", contour, PLANE[0], TRIANGLE[:2]),
    ("0 of the 12 values are finite; draw", contour, np.nan * PLANE[0]),
    (r"levels is \[1.0, 1.0\]; give at least 2 that", with_(contour, levels=[1, 1])),
    # Low rank
    ("rank is 0; use a whole number of at least 1", deltas, 0),
    ("None of the 3 leaves of the base", with_(deltas, select=chosen("no"))),
    ("dtype int32 and can't have a delta;", with_(deltas, select=chosen("steps"))),
    (r"\[5\] has no rows and columns .* -1; let", with_(deltas, select=chosen("bias"))),
    ("have another structure than the base; make", lora.merge, {"w": BASE}, deltas(), ones(3)),
    (r"\[2\] do not fit the factors of leaf", lora.merge, BASE, deltas(), ones(2)),
    (r"\[6, 5\] but .* \[6, 6\]", lora.merge, BASE | {"kernel": ones(6, 6)}, deltas(), ones(3)),
    (r"write `lora.around\(layerwise\(", ss.layerwise, lora.around(ss.line(), BASE)),
    ("between pairs but there is 1 endpoint", lora.cosine_penalty, deltas(n=1)),
    # Complexes
    ("give at least one simplex", complexes.simplicial_complex, ()),
    ("at least one vertex", complexes.simplicial_complex, ((0, 1), ())),
    (r"\[0, 1, 3\]; .* each of 0, 1", complexes.simplicial_complex, ((0, 1), (1, 3))),
    ("a vertex twice in one; name it once", complexes.simplicial_complex, ((0, 1), (1, 1))),
    ("1 vertices has no volume", with_(complexes.log_volume, vertices=[1]), ones(3, 2)),
    ("No leaf .* is selected", complexes.log_volume, ones(3, 2), chosen("no")),
    # Permutations
    *(
        (message, alignment.match, SMALL, SMALL, groups)
        for groups, message in [
            ({"g": (("w", 0),)}, "Group 'g' names the leaf 'w' but .*; use one of in, out"),
            ({"g": (("in", 2),)}, r"axis 2 of leaf in but its shape is \[2, 3\]; name one"),
            ({"g": (("in", 1), ("out", 1))}, "3 units in leaf in and 4 in axis 1 of leaf out;"),
            (UNITS | {"h": (("in", -1),)}, "Axis -1 .* is named twice, in groups 'g' and 'h'"),
        ]
    ),
    ("None of the 2 leaves is of an attention", alignment.attention_heads, SMALL),
    ("None of the 6 leaves is of", alignment.attention_heads, dict.fromkeys(QKV, HEAD)),
    ("decay=1.5; use a number from 0 to below 1", averaging.ema, 1.5),
    ("rho=-1; use 0 or", sharpness.sam, optax.sgd(0.1), -1),
    (r"freeze got \[True, False\]; .* freeze\(\[0\]\)", ss.freeze, [True, False]),
    *((f"returned {what} instead of a pair", bare_loss, loss) for what, loss in LOSSES),
    ("complex numbers, of which a Hessian", top_eigenvalue, np.ones(3, np.complex64)),
    ("There is no group 'h'; .* 'g'", alignment.permute, SMALL, UNITS, {"h": np.arange(3)}),
    ("is none of its 3 units; name", alignment.permute, SMALL, UNITS, {"g": np.zeros(3, int)}),
    (r"\[2, 3\] and \[4, 3\]", alignment.match, SMALL, SMALL | {"in": ones(4, 3)}, UNITS),
    ("not finite", alignment.match, SMALL, SMALL | {"in": np.nan * ones(2, 3)}, UNITS),
]


@pytest.mark.parametrize("row", REFUSED, ids=lambda row: row[0])
def test_what_can_not_be_is_refused(row):
    message, function, *arguments = row
    with pytest.raises((ValueError, TypeError), match=message):
        function(*arguments)


@pytest.mark.parametrize(
    ("leaf", "what"),
    [
        (np.int32(7), "has dtype int32"),
        (KEY, "has dtype key<fry>"),
        (jax.nn.relu, "is an object of type custom_jvp"),
    ],
)
def test_leaves_that_can_not_be_mixed_are_refused_wherever_networks_go(leaf, what):
    network, stack = {"a": ones(2), "b": leaf}, {"a": ones(2, 3), "b": leaf}
    share, every = r"subspace_jax.split\(network\)`", lambda path, leaf: True
    for advice, function, *arguments in [
        ("let `spans` return False for it", ss.split, network, every),
        (share, ss.line().init, KEY, lambda key: network),
        (share, ss.line().grow, [network]),
        (share, ss.line().midpoint, stack),
        (share, ss.mix, ones(2) / 2, stack),
        (share, ss.summary, stack),
    ]:
        with pytest.raises(TypeError, match=rf"Leaf \['b'\] {what} and can't be mixed.* {advice}"):
            function(*arguments)
