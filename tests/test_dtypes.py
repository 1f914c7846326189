"""Low precision loses nothing in sums, complex weights are real vectors, extremes are right."""

import os
import subprocess
import sys
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import subspace_jax as ss
from subspace_jax import averaging, calibration, landscape, metrics
from subspace_jax.contrib import alignment, complexes, lora, sharpness, swag

KEY = jax.random.key(0)
LOW = (jnp.bfloat16, jnp.float16)
PROBS = jax.nn.softmax(3 * jax.random.normal(KEY, (4000, 5)))
LABELS = jax.random.randint(jax.random.key(1), (4000,), 0, 5)


def fed(average, networks, read=averaging.average_of):
    """What an average makes of the networks that a run visits."""
    optimizer = optax.chain(optax.identity(), average)
    params = networks[0]
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    for new in networks[1:]:
        _, state = update(new - params, state, params)
        params = new
    return read(state)


def steps(dtype):
    """300 networks from 1 to 2, whose mean moves by less than low precision shows."""
    return jnp.linspace(1, 2, 300).astype(dtype)[:, None]


SUMS = {  # function of a dtype, and whether the result stands for parameters
    "ema": (lambda d: fed(averaging.ema(0.999), steps(d)), True),
    "swa": (lambda d: fed(averaging.swa(0, 1), steps(d)), True),
    "swag": (lambda d: fed(swag.swag(0, 1, 3), steps(d)), True),
    "swag variance": (lambda d: fed(swag.swag(0, 1, 3), steps(d), lambda s: s[1].variance), False),
    "mix": (lambda d: ss.mix(jnp.full(300, 1 / 300), steps(d)), True),
    "gram": (lambda d: ss.gram(jnp.stack([jnp.ones(4000, d)] * 2)), False),
    "penalty": (lambda d: ss.cosine_penalty(jax.random.normal(KEY, (2, 30, 30)).astype(d)), False),
    "recalibrate": (
        lambda d: ss.recalibrate(
            lambda p, x: {"mean": x.mean(0), "var": x.var(0)},
            None,
            [*steps(d)[:, None]],
            check=False,
        ).stats["mean"],
        False,
    ),
    "ensemble": (lambda d: ss.ensemble(steps(d)[:, None] * jnp.array([[[1.0, 2]]], d)), False),
    "fit_temperature": (
        lambda d: calibration.fit_temperature(2 * jnp.log(PROBS).astype(d), LABELS),
        False,
    ),
    "mCE": (lambda d: metrics.mean_corruption_error(steps(d)), False),
    **{
        name: (lambda d, name=name: getattr(metrics, name)(PROBS.astype(d), LABELS), False)
        for name in ("accuracy", "brier", "ece", "adaptive_ece", "classwise_ece", "aurc", "entropy")
    },
    "nll": (lambda d: metrics.nll(jnp.log(PROBS).astype(d), LABELS), False),
}


@pytest.mark.parametrize("name", SUMS)
def test_sums_run_in_float32_or_wider_and_parameters_keep_their_dtype(name):
    function, is_parameter = SUMS[name]
    expected = np.float64(function(jnp.float32))
    for dtype in LOW:
        found = function(dtype)
        assert found.dtype == (dtype if is_parameter else jnp.float32)
        # What goes in is rounded, once.
        np.testing.assert_allclose(np.float64(found), expected, rtol=0.01, atol=0.01)
    with jax.enable_x64(True):
        assert function(jnp.float64).dtype == jnp.float64


def test_metrics_of_many_examples_keep_their_digits():
    """Of 300,000, against the same in float64."""
    rng = np.random.default_rng(0)
    probs = rng.dirichlet(np.ones(10), 300_000).astype(np.float32)
    labels = rng.integers(0, 10, len(probs))
    for name in ("classwise_ece", "ece", "adaptive_ece", "brier", "aurc"):
        found = getattr(metrics, name)(probs, labels)
        with jax.enable_x64(True):
            exact = getattr(metrics, name)(probs.astype(np.float64), labels)
        np.testing.assert_allclose(float(found), float(exact), rtol=1e-6)


def test_equal_weights_are_exact_in_float64():
    with jax.enable_x64(True):
        endpoints = jnp.arange(3.0) ** 7
        third = 128 / 3 + 1 / 3
        assert ss.simplex(3).midpoint(endpoints) == pytest.approx(third, rel=1e-15)
        grown = ss.simplex(3).grow([*endpoints])
        chex.assert_trees_all_equal(grown, endpoints)
        assert ss.simplex(4).grow([*endpoints])[3] == pytest.approx(third, rel=1e-15)


# Complex weights


def as_pairs(tree):
    return jax.tree.map(lambda x: jnp.stack([x.real, x.imag], -1), tree)


def complex_stack(n):
    draw = jax.random.normal(KEY, (2, n, 4, 3))
    return {"a": jax.lax.complex(*draw), "b": jax.lax.complex(draw[1], draw[0])}


OF_PAIRS = {  # functions that are those of the real and imaginary parts
    "gram": ss.gram,
    "distances": ss.distances,
    "squared_cosines": ss.squared_cosines,
    "penalty": ss.cosine_penalty,
    "penalty of a pair": lambda stack: ss.cosine_penalty(stack, KEY),
    "volume": complexes.log_volume,
    "plane": lambda stack: landscape.plane(stack).coordinates,
}


@pytest.mark.parametrize("name", OF_PAIRS)
def test_complex_networks_are_vectors_of_real_numbers(name):
    stack = complex_stack(3)
    found = OF_PAIRS[name](stack)
    assert found.dtype == jnp.float32
    chex.assert_trees_all_close(found, OF_PAIRS[name](as_pairs(stack)), rtol=1e-6, atol=1e-6)
    if name.startswith("penalty"):
        gradient = jax.tree.map(jnp.conj, jax.grad(OF_PAIRS[name])(stack))
        pairs = jax.grad(OF_PAIRS[name])(as_pairs(stack))
        chex.assert_trees_all_close(as_pairs(gradient), pairs, rtol=1e-6, atol=1e-6)


def test_a_training_step_of_complex_networks_descends():
    stack = complex_stack(2)
    target = jax.tree.map(lambda x: 1j * x[0], stack)
    square = lambda p, t: sum(
        jnp.sum(jnp.abs(a - b) ** 2) for a, b in zip(*map(jax.tree.leaves, (p, t)), strict=True)
    )
    found = []
    for ends, goal in ((stack, target), (as_pairs(stack), as_pairs(target))):
        loss_fn = lambda p, key, batch, goal=goal: (square(p, goal), {})
        step = ss.make_train_step(ss.line(), loss_fn, optax.sgd(0.1))
        found.append(step(ss.TrainState.create(ends, optax.sgd(0.1)), KEY, None)[0].endpoints)
    chex.assert_trees_all_close(as_pairs(found[0]), found[1], rtol=1e-5)


def test_units_and_filters_of_complex_networks():
    one = {"w": jnp.array([[1j, -1j]]), "v": jnp.array([[1j], [-1j]])}
    two = {"w": one["w"][:, ::-1], "v": one["v"][::-1]}
    assert alignment.match(one, two, {"u": (("w", 1), ("v", 0))})["u"].tolist() == [1, 0]
    params = complex_stack(1)
    direction = landscape.filter_normalized_direction(KEY, params)
    sizes = landscape.filter_norms(direction)
    chex.assert_trees_all_close(sizes, landscape.filter_norms(params), rtol=1e-5)
    assert direction["a"].dtype == params["a"].dtype


def test_low_rank_deltas_and_statistics_of_complex_numbers():
    a, b = (x.swapaxes(1, 2) for x in (complex_stack(3)["a"], complex_stack(3)["b"] + 1))
    factors = {"a": a, "b": b.swapaxes(1, 2)}
    expected = ss.gram(jnp.einsum("nir,nro->nio", *factors.values()))
    np.testing.assert_allclose(lora.gram(factors), expected, rtol=1e-4, atol=1e-4)

    moments = lambda params, x: {"mean": x.mean(0), "var": x.var(0)}
    blend = lambda s, x: jnp.asarray(0.9, s.dtype) * s + jnp.asarray(0.1, x.dtype) * x
    update = lambda params, stats, x: jax.tree.map(blend, stats, moments(params, x))
    batches = [complex_stack(6)["a"], 3 + complex_stack(4)["b"]]
    expected = moments(None, jnp.concatenate(batches))
    for stats_fn, start in ((moments, None), (update, expected)):
        found = ss.recalibrate(stats_fn, None, batches, stats=start).stats
        chex.assert_trees_all_close(found, expected, rtol=1e-4)


def test_numbers_of_8_bits_are_summed_in_float32():
    for dtype in (jnp.float8_e4m3fn, jnp.float8_e5m2):
        stack = jnp.array([[0.5, 1.0], [1.0, 2.0]]).astype(dtype)
        assert ss.gram(stack).tolist() == [[1.25, 2.5], [2.5, 5.0]]
        assert ss.line().midpoint(stack).tolist() == [0.75, 1.5]
        assert averaging.ema(0.5).init(stack).mean.dtype == jnp.float32
        assert averaging.average_of(averaging.ema(0.5).init(stack)).dtype == dtype


def test_a_step_in_low_precision_takes_a_penalty_in_float32():
    loss_fn = lambda params, key, x: ((x @ params).sum(), {"count": jnp.sum(x > 1)})
    for dtype in LOW:
        state = ss.TrainState.create(jnp.ones((2, 4, 3), dtype), optax.sgd(0.5))
        step = ss.make_train_step(
            ss.line(), loss_fn, optax.sgd(0.5), penalty=ss.cosine_penalty, num_samples=2
        )
        state, found = step(state, KEY, jnp.eye(4, dtype=dtype).at[0, 0].set(2))
        assert state.endpoints.dtype == dtype
        assert found["count"] == 0.5  # a mean of counts is no count


# Tiny and huge values


@pytest.mark.parametrize("size", [1e-15, 1e-9, 1e9, 1e15])
def test_the_gradient_of_the_volume_does_not_depend_on_the_scale(size):
    stack = jax.random.normal(KEY, (3, 4, 5))
    value, gradient = jax.value_and_grad(complexes.log_volume)(stack)
    found, scaled = jax.value_and_grad(complexes.log_volume)(jnp.float32(size) * stack)
    np.testing.assert_allclose(found - 2 * np.log(size), value, rtol=1e-3)
    np.testing.assert_allclose(scaled * jnp.float32(size), gradient, rtol=1e-3, atol=1e-6)
    huge = jnp.float16(15000) * stack.astype(jnp.float16)  # whose differences are no float16
    assert jnp.isfinite(complexes.log_volume(huge))
    assert jnp.isfinite(landscape.plane(huge).coordinates).all()


@pytest.mark.parametrize("size", [1e-15, 1e-12, 1e-9, 1.0, 1e12])
@pytest.mark.parametrize("key", [None, KEY])
def test_the_penalty_and_its_gradient_do_not_depend_on_the_scale(size, key):
    stack = jax.random.normal(KEY, (3, 4, 5))
    value, gradient = jax.value_and_grad(ss.cosine_penalty)(stack, key)
    found, scaled = jax.value_and_grad(ss.cosine_penalty)(jnp.float32(size) * stack, key)
    np.testing.assert_allclose(found, value, rtol=2e-3)
    np.testing.assert_allclose(scaled * jnp.float32(size), gradient, rtol=0.02, atol=1e-5)


def test_the_worst_point_keeps_biases_as_the_published_code_does():
    grads = {"kernel": jnp.full((2, 2), 3.0), "bias": jnp.full(2, 4.0)}
    params = {"kernel": jnp.full((2, 2), 1.99), "bias": jnp.full(2, 2.99)}
    seen = []

    def grad_fn(at, step):
        del step
        seen.append(jax.tree.map(lambda a, b: a - b, at, params))
        return grads

    for adaptive, t in ((True, 1), ("all", 3)):  # what the bias is scaled by; the kernel by 2
        optimizer = sharpness.sam(optax.sgd(1.0), 0.5, adaptive=adaptive)
        optimizer.update(grads, optimizer.init(params), params, grad_fn=grad_fn)
        norm = np.sqrt(4 * (2 * 3) ** 2 + 2 * (t * 4) ** 2)
        expected = {"kernel": 0.5 * 2**2 * 3 / norm, "bias": 0.5 * t**2 * 4 / norm}
        for name, x in seen.pop().items():
            np.testing.assert_allclose(x, np.full(x.shape, expected[name]), rtol=1e-5)


LIBRARY = """subspaces tree diversity partition averaging metrics calibration detection prediction
    recalibration landscape sharpness complexes lora alignment training"""


@pytest.mark.slow
def test_the_library_s_tests_pass_with_64_bits():
    root = Path(__file__).parent
    files = [str(root / f"test_{name}.py") for name in LIBRARY.split()]
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", *files]
    done = subprocess.run(
        command,
        env=os.environ | {"JAX_ENABLE_X64": "1"},
        capture_output=True,
        text=True,
        cwd=root.parent,
    )
    assert done.returncode == 0, done.stdout[-3000:]
