"""Subspaces of networks: lines, Bezier curves and simplexes, global or layerwise.

A subspace is spanned by `n` *endpoints*, stacked on the leading axis of every leaf of a parameter tree.
A point of it has *coordinates* (a number along a line or curve, `n` barycentric coordinates in a
simplex), which determine *mixing weights* `[n]` that sum to one.
"""

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from subspace_jax import tree
from subspace_jax.tree import PyTree

Coords = Any  # one array of the shape of `Subspace.center`, or a tree prefix with one at each leaf


@dataclasses.dataclass(frozen=True, eq=False)
class Subspace:
    """A continuous family of networks spanned by a few endpoints, from `line`, `bezier` or `simplex`.

    Equal calls of these return the same object, so a subspace can be a static argument of `jax.jit`,
    and one that was pickled is the same again.

    Attributes:
      num_endpoints: `n`, how many networks span the subspace.
      draw: `key -> coords`, the coordinates of a random point.
      weights: `coords -> [n]`, the mixing weights at given coordinates; they sum to one.
      center: coordinates of the midpoint, `[]` for a line or curve, `[n]` for a simplex.
      layer_of: `None`, or `path -> name of the layer` for the leaves that share a draw.
      mix: `(weights, endpoints) -> network`; `contrib.lora.around` replaces it.
    """

    num_endpoints: int
    draw: Callable[[jax.Array], jax.Array]
    weights: Callable[[jax.Array], jax.Array]
    center: np.ndarray
    layer_of: Callable[[tuple], Hashable] | None = None
    mix: Callable[[PyTree, PyTree], PyTree] = tree.mix

    def __reduce__(self) -> tuple:
        """Pickles the call that made it, which makes the same object again."""
        if not hasattr(self, "_made_by"):
            raise TypeError(
                "This subspace was not made by a constructor and can't be pickled; make it in the "
                "process that uses it."
            )
        return self._made_by

    def init(self, key: jax.Array, init_fn: Callable[[jax.Array], PyTree]) -> PyTree:
        """Draws the endpoints independently, with `init_fn`, `key -> network`: leaves `[n, ...]`.

        Raises TypeError: `init_fn` is no function, or a leaf can't be mixed (`split` keeps it);
        ValueError: all endpoints are equal, as `init_fn` does not use its key.

        >>> endpoints = line().init(jax.random.key(0), lambda key: jax.random.normal(key, (3,)))
        >>> endpoints.shape
        (2, 3)
        """
        _check_key("init(key, init_fn)", key)
        is_model = any(base.__name__ == "Module" for base in type(init_fn).__mro__)
        wraps = hasattr(init_fn, "__wrapped__") or hasattr(init_fn, "func")  # as Equinox's jit
        if (is_model and not wraps) or not callable(init_fn):
            raise TypeError(
                f"init got an object of type {type(init_fn).__name__} instead of a function; pass one "
                "that draws a network, as `lambda key: model.init(key, x)['params']`."
            )

        def one(key):
            network = init_fn(key)
            tree.check_mixable(network)
            return network

        endpoints = jax.vmap(one)(jax.random.split(key, self.num_endpoints))
        if self.num_endpoints > 1 and _are_equal(endpoints, one, key):
            raise ValueError(
                f"The {self.num_endpoints} endpoints are equal, since init_fn does not draw with its "
                "key; let it use the key, or start from one network with `grow` and noise."
            )
        return endpoints

    def grow(
        self,
        networks: Sequence[PyTree],
        key: jax.Array | None = None,
        *,
        noise: float = 0.0,
        positions: Sequence[int] | None = None,
    ) -> PyTree:
        """Endpoints that start from 1 to `n` networks which were trained before, with leaves `[...]`.

        The others start at their mean, with noise if wanted: equal endpoints part by batches alone.

        Args:
          noise: its standard deviation in units of the root mean square of each leaf of the mean.
          positions: which endpoint each network becomes, by default the first; a curve's ends are 0, 2.

        The given networks are bit for bit as they were, and stay so with `freeze(positions)`. Raises
        ValueError: there is no network or more than endpoints, they differ in structure or shapes,
        positions are no different numbers below `n`, or there is noise and no key; TypeError: a leaf
        can't be mixed.

        >>> bezier(2).grow([jnp.array([4.0, 2.0]), jnp.zeros(2)], positions=(0, 2)).tolist()
        [[4.0, 2.0], [2.0, 1.0], [0.0, 0.0]]
        """
        n, networks = self.num_endpoints, list(networks)
        positions = tuple(range(len(networks)) if positions is None else positions)
        _check_grow(n, networks, key, noise, positions)
        for network in networks:
            tree.check_mixable(network)
        given = tree.stack(networks)
        rows = jnp.full((n, len(networks)), 1 / len(networks))
        endpoints = jax.vmap(tree.mix, in_axes=(0, None))(rows, given)
        if noise:
            endpoints = _noisy(key, noise, endpoints)
        return jax.tree.map(lambda x, own: x.at[np.array(positions)].set(own), endpoints, given)

    def point(self, endpoints: PyTree, coords: Coords) -> PyTree:
        r"""The network at given coordinates.

        .. math:: \theta(c) = \sum_i w_i(c) \, \theta_i

        Coordinates are an array of the shape of `center`, or a tree prefix of `endpoints` with one at
        each leaf. Points outside the subspace are allowed. Raises ValueError: the endpoints are not
        `n`, coordinates have another shape, or concrete barycentric ones do not sum to one (traced
        values are not checked); TypeError: a leaf can't be mixed.

        >>> float(line().point(jnp.array([1.0, 3.0]), 0.25))
        1.5
        """
        tree.check_mixable(endpoints)
        n = tree.num_stacked(endpoints)
        if n != self.num_endpoints:
            raise ValueError(
                f"The stack holds {n} networks but the subspace has {self.num_endpoints} "
                f"endpoints; initialise the stack with this subspace's `init`."
            )
        return self.mix(self.mixing_weights(coords), endpoints)

    def midpoint(self, endpoints: PyTree) -> PyTree:
        """The network at the center of the subspace, which is the one to deploy.

        >>> float(simplex(4).midpoint(jnp.array([1.0, 2.0, 3.0, 6.0])))
        3.0
        """
        return self.point(endpoints, self.center)

    def sample_coords(self, key: jax.Array, endpoints: PyTree) -> Coords:
        """Coordinates of a uniformly random point; only the structure of `endpoints` matters.

        An array of the shape of `center`; of a layerwise subspace a tree of them like `endpoints`.
        Raises ValueError: layerwise, and several kernels are all in one layer; TypeError: no key.

        >>> coords = simplex(3).sample_coords(jax.random.key(0), jnp.zeros((3, 2)))
        >>> coords.shape, bool(jnp.allclose(coords.sum(), 1))
        ((3,), True)
        """
        _check_key("sample(key, endpoints)", key)
        if self.layer_of is None:
            return self.draw(key)
        paths_and_leaves, treedef = jax.tree.flatten_with_path(endpoints)
        layers = [self.layer_of(path) for path, _ in paths_and_leaves]
        index = {layer: i for i, layer in enumerate(dict.fromkeys(layers))}
        kernels = sum(leaf.ndim > 2 for _, leaf in paths_and_leaves)
        if len(index) == 1 and kernels > 1:
            raise ValueError(
                f"All {kernels} kernels are in 1 layer, so that a layerwise point is a global one; nest "
                "the parameters by layer, or pass `layer_of` to `layerwise`."
            )
        draws = jax.vmap(self.draw)(jax.random.split(key, len(index)))
        return treedef.unflatten(draws[index[layer]] for layer in layers)

    def sample(self, key: jax.Array, endpoints: PyTree) -> PyTree:
        r"""A random network of the subspace, leaves `[...]`, differentiable in the endpoints.

        The gradient with respect to endpoint `i` is `w_i` times that with respect to the network.

        >>> network = line().sample(jax.random.key(0), jnp.array([1.0, 3.0]))
        >>> bool(1 <= network <= 3)
        True
        """
        return self.point(endpoints, self.sample_coords(key, endpoints))

    def mixing_weights(self, coords: Coords) -> PyTree:
        """The mixing weights `[n]` at given coordinates, or a tree of them, checked as `point` does.

        >>> line().mixing_weights({"a": 0.25, "b": 1.0})["a"].tolist()
        [0.75, 0.25]
        """
        return jax.tree.map(self._checked_weights, coords)

    def _checked_weights(self, coords: jax.Array) -> jax.Array:
        if jnp.shape(coords) != self.center.shape:
            raise ValueError(
                f"Coordinates have shape {list(jnp.shape(coords))} but a point of this subspace of "
                f"{self.num_endpoints} endpoints has shape {list(self.center.shape)}; "
                "use jax.vmap for many points, and an array rather than a list."
            )
        weights = self.weights(jnp.asarray(coords))
        if self.center.ndim == 1 and not isinstance(weights, jax.core.Tracer):
            total = np.asarray(weights, np.float64).sum()  # a JAX sum would be traced in a jit
            if not abs(total - 1) <= 1e-4:
                raise ValueError(
                    f"Barycentric coordinates sum to {total:g} instead of 1; normalise them "
                    "(negative ones are allowed: they lie outside the simplex)."
                )
        return weights


def one_object(constructor: Callable[..., Subspace]) -> Callable[..., Subspace]:
    """Makes equal calls, however they are written, return one object, which jit can compare."""
    signature, cached = inspect.signature(constructor), functools.cache(constructor)

    @functools.wraps(constructor)
    def construct(*args, **kwargs):
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        try:
            hash(bound.args)
        except TypeError:  # which the constructor refuses better
            return constructor(*bound.args)
        subspace = cached(*bound.args)
        object.__setattr__(subspace, "_made_by", (construct, bound.args))
        return subspace

    return construct


@one_object
def bezier(degree: int = 2) -> Subspace:
    r"""A Bezier curve between the first and the last of `degree + 1` endpoints, with scalar coordinates.

    .. math:: \theta(\alpha) = \sum_{i=0}^{d} \binom{d}{i} \alpha^i (1 - \alpha)^{d - i} \theta_i,
              \qquad \alpha \sim U(0, 1)

    All control points are endpoints, in the order of the curve, and are trained together. The weights
    are finite at every degree and exact at both ends. Raises ValueError: `degree` is below 1. See
    Garipov et al. 2018, "Loss Surfaces, Mode Connectivity, and Fast Ensembling of DNNs"; Wortsman et
    al. 2021.

    >>> bezier(2).weights(jnp.float32(0.5))
    Array([0.25, 0.5 , 0.25], dtype=float32)
    """
    if not isinstance(degree, int | np.integer) or degree < 1:
        raise ValueError(f"A curve of degree {degree} has no ends; use a degree >= 1.")

    def weights(alpha):
        def step(_, basis):
            return (1 - alpha) * basis + alpha * jnp.pad(basis[:-1], (1, 0))

        basis = jnp.zeros(degree + 1, jnp.result_type(alpha)).at[0].set(1)
        if degree < 8:  # outside of a jit a loop would be compiled at every call
            for i in range(degree):
                basis = step(i, basis)
            return basis
        return jax.lax.fori_loop(0, degree, step, basis)

    return Subspace(degree + 1, jax.random.uniform, weights, np.full((), 0.5))


def line() -> Subspace:
    r"""The line segment between two networks, the same as `bezier(degree=1)`.

    .. math:: \theta(\alpha) = (1 - \alpha) \theta_0 + \alpha \theta_1, \qquad \alpha \sim U(0, 1)

    See Wortsman et al. 2021, "Learning Neural Network Subspaces", Algorithm 1.

    >>> line().weights(jnp.float32(0.25))
    Array([0.75, 0.25], dtype=float32)
    """
    return bezier(degree=1)


@one_object
def simplex(num_endpoints: int) -> Subspace:
    r"""The simplex spanned by `n >= 1` networks, with the uniform distribution on it.

    .. math:: \theta(w) = \sum_{i=1}^{n} w_i \theta_i, \qquad w_i = e_i / \sum_j e_j,
              \quad e_i \sim \mathrm{Exp}(1)

    Its coordinates are the mixing weights; `simplex(1)` is an ordinary network. Raises ValueError:
    `num_endpoints` is below 1. See Wortsman et al. 2021, "Learning Neural Network Subspaces", section
    3.

    >>> simplex(3).point(jnp.array([1.0, 2.0, 6.0]), jnp.array([0.0, 0.5, 0.5]))
    Array(4., dtype=float32)
    """
    if not isinstance(num_endpoints, int | np.integer) or num_endpoints < 1:
        raise ValueError(
            f"A simplex of {num_endpoints} endpoints is empty; use at least 1, a whole number."
        )

    n = num_endpoints
    draw = lambda key: normalised(jax.random.exponential(key, (n,)))
    return Subspace(n, draw, lambda coords: coords, np.full(n, 1 / n))


def normalised(draws: jax.Array, members: ArrayLike = 1.0) -> jax.Array:
    """Barycentric coordinates; an exponential draw may be 0, and a single one is then not 0 / 0."""
    draws = jnp.maximum(draws, jnp.finfo(draws.dtype).tiny) * members
    return draws / draws.sum()


def parent(path: tuple) -> tuple:
    """The layer that owns a parameter: its path without the last name (and the `.value` of Flax NNX).

    >>> parent(("block", "conv", "kernel"))
    ('block', 'conv')
    """
    wrapped = path and getattr(path[-1], "name", None) == "value"
    return path[: -2 if wrapped else -1]


@one_object
def layerwise(subspace: Subspace, layer_of: Callable[[tuple], Hashable] = parent) -> Subspace:
    """The same subspace with an independent random point for every layer.

    A layer is by default what shares a parent in the tree, as a kernel and its bias; `layer_of` is
    `path -> hashable`, equal for the leaves that share a draw. Only drawing changes: `sample_coords`
    returns a tree. Raises TypeError: `subspace` is none; ValueError: it is around a base
    (`contrib.lora.around`), before which layers are made. See Wortsman et al. 2021, "Learning Neural
    Network Subspaces", section 3.2.

    >>> endpoints = {"a": {"w": jnp.zeros(2), "b": jnp.zeros(2)}, "c": {"w": jnp.zeros(2)}}
    >>> coords = layerwise(line()).sample_coords(jax.random.key(0), endpoints)
    >>> bool(coords["a"]["w"] == coords["a"]["b"]), bool(coords["a"]["w"] == coords["c"]["w"])
    (True, False)
    """
    if not isinstance(subspace, Subspace):
        raise TypeError(
            f"layerwise got an object of type {type(subspace).__name__}; give it a subspace, as "
            "layerwise(line()), and the endpoints to its methods."
        )
    if subspace.mix is not tree.mix:
        raise ValueError(
            "The subspace has a base already and can't be made layerwise any more; "
            "write `lora.around(layerwise(subspace), base)` in this order."
        )
    return dataclasses.replace(subspace, layer_of=layer_of)


def _check_key(call, key) -> None:
    dtype = key.dtype if isinstance(key, jax.Array | np.ndarray) else None
    if dtype is None or not (jnp.issubdtype(dtype, jax.dtypes.prng_key) or dtype == jnp.uint32):
        raise TypeError(
            f"{call} got as its key what {tree.kind(key)}; pass a key first, as jax.random.key(0)."
        )


def _are_equal(endpoints, one, key) -> bool:
    """Whether all endpoints are one network; where values are traced, whether the key has no part."""
    leaves = [x for x in jax.tree.leaves(endpoints) if x.size]
    if all(map(tree.is_concrete, leaves)):
        return all(bool((x == x[:1]).all()) for x in leaves)
    try:
        jax.eval_shape(jax.vmap(one, out_axes=None), jax.random.split(key, 2))
    except ValueError:  # what is drawn with a key of its own has no axis `None`
        return False
    return True


def _noisy(key, noise, stack):
    """A stack of equal networks with noise on each of its leaves."""
    wide = jax.tree.map(lambda x: x.astype(tree.wider_dtype(jnp.float32, x)), stack)

    def add(x, wide, draw):
        size = noise * jnp.sqrt(jnp.mean(jnp.abs(wide) ** 2))
        return (wide + size.astype(draw.dtype) * draw).astype(x.dtype)

    return jax.tree.map(add, stack, wide, optax.tree.random_like(key, wide))


def _check_grow(n, networks, key, noise, positions) -> None:
    count = len(networks)
    if not 1 <= count <= n:
        raise ValueError(
            f"grow got {count} networks but the subspace has {n} endpoints; give it 1 to {n}."
        )
    numbers = np.asarray(positions).dtype.kind == "i"
    if not numbers or len(positions) != count or len({*positions} & {*range(n)}) != count:
        raise ValueError(
            f"The positions {positions} do not place {count} networks among {n} endpoints; "
            f"give each network a number of its own from 0 to {n - 1}."
        )
    if not 0 <= noise < math.inf:
        raise ValueError(f"noise is {noise}; use 0 for none or a number above it.")
    if noise and key is None:
        raise ValueError(f"noise is {noise} but there is no key to draw it with; pass `key` too.")
