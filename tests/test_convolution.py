"""The convolution is `lax.conv_general_dilated` in values and in all derivatives."""

import functools

import chex
import jax
import jax.numpy as jnp
import pytest
from ml_collections import ConfigDict

from experiments.system import xla
from experiments.training import networks
from experiments.training.convolution import conv_general_dilated
from experiments.training.models import make_network
from tests import compilations

# strides, padding, size of the kernel
GEOMETRIES = {
    "same": ((1, 1), "SAME", 3),
    "strided": ((2, 2), ((1, 1), (1, 1)), 3),
    "shortcut": ((2, 2), "SAME", 1),
    "uneven": ((2, 1), ((0, 1), (2, 0)), 3),
}


def setting(geometry):
    strides, padding, size = GEOMETRIES[geometry]
    keys = jax.random.split(jax.random.key(0))
    images = jax.random.normal(keys[0], (3, 7, 6, 4))
    kernel = jax.random.normal(keys[1], (size, size, 4, 4))
    kwargs = {
        "window_strides": strides,
        "padding": padding,
        "dimension_numbers": ("NHWC", "HWIO", "NHWC"),
    }
    ours, plain = conv_general_dilated, jax.lax.conv_general_dilated
    return images, kernel, functools.partial(ours, **kwargs), functools.partial(plain, **kwargs)


def energy(convolve, images, kernel):
    return jnp.sum(jnp.tanh(convolve(jnp.tanh(images), kernel)) ** 2)


@pytest.mark.parametrize("onednn", [False, True])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_values_gradients_and_curvature_are_those_of_lax(geometry, onednn, monkeypatch):
    """Curvature is forward over reverse: what Hessian-vector products of the landscape need."""
    monkeypatch.setattr(xla, "has_onednn", lambda: onednn)
    images, kernel, ours, plain = setting(geometry)

    def all_of(fn):
        gradient = jax.grad(functools.partial(energy, fn), argnums=(0, 1))

        def compute(*at):
            return fn(*at), jax.jvp(gradient, at, (images, kernel))

        return jax.jit(compute)(images, kernel)

    (value, derivatives), (expected, others) = map(all_of, (ours, plain))
    chex.assert_trees_all_equal(value, expected)
    gradients, curvatures = zip(derivatives, others, strict=True)
    chex.assert_trees_all_close(*gradients, rtol=2e-5, atol=1e-5)
    chex.assert_trees_all_close(*curvatures, rtol=1e-4, atol=1e-4)


def test_xla_computes_nothing_anew_for_a_weight_gradient():
    """Compiled, what makes a layer's input appears once with the barrier, and twice without."""

    def loss(convolve, scale, kernel, images):
        x = jnp.maximum(images * scale + 1, 0)  # stands for batch norm and ReLU
        return jnp.sum(convolve(x, kernel) ** 2)

    images, kernel, ours, plain = setting("same")
    maxima = []
    for fn in (ours, plain):
        gradient = jax.grad(functools.partial(loss, fn), argnums=(0, 1))
        compiled = (
            jax.jit(gradient).lower(jnp.float32(2), kernel, images).compile(compilations.USERS)
        )
        maxima.append(compiled.as_text().count(" maximum("))
    assert maxima[0] < maxima[1]


def test_networks_of_a_config_have_it(monkeypatch):
    monkeypatch.setattr(networks, "convolution", jax.lax.conv_general_dilated)
    make_network(ConfigDict({"name": "conv_net", "widths": (4,)}), 3)
    assert networks.convolution is conv_general_dilated
