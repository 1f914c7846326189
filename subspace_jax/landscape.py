r"""The loss around networks: planes through three of them, paths, random directions, curvature.

Everything is a mixture of a few networks, so that a picture is a set of mixing weights `[P, n]` and one
call, which never holds more than one mixed network at a time:

    plane = landscape.plane(endpoints)                            # three networks
    xy = landscape.grid(plane, 25)                                # [25, 25, 2]
    losses = landscape.along(loss_fn, endpoints, landscape.grid_weights(plane, xy))
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike

from subspace_jax import tree
from subspace_jax.diversity import is_kernel
from subspace_jax.recalibration import for_each
from subspace_jax.tree import PyTree

AxisOf = Callable[[tuple, jax.Array], int]
# Of the longest side. Of a thinner triangle float32 inner products do not know the height.
_THINNEST = 0.01


class Plane(NamedTuple):
    """The plane through three networks, with isometric coordinates in units of weight distance.

    Attributes:
      origin: `[3]`, the mixing weights of the point (0, 0), the first network.
      axes: `[2, 3]`, what one unit along x and y adds to the weights; orthonormal.
      coordinates: `[3, 2]`, the xy of the three networks.
    """

    origin: jax.Array
    axes: jax.Array
    coordinates: jax.Array

    def weights(self, xy: ArrayLike) -> jax.Array:
        """The mixing weights `[..., 3]` of points `[..., 2]`; they sum to one, some negative outside.

        >>> endpoints = jnp.array([[0.0, 0.0], [4.0, 0.0], [0.0, 2.0]])
        >>> plane(endpoints).weights([1.0, 1.0])
        Array([0.25, 0.25, 0.5 ], dtype=float32)
        """
        xy = jnp.asarray(xy, self.axes.dtype)
        shift = jnp.matmul(xy, self.axes, precision=jax.lax.Precision.HIGHEST)
        return jnp.broadcast_to(self.origin, shift.shape) + shift


def plane(endpoints: PyTree) -> Plane:
    r"""The plane through three networks, from inner products alone: nothing of their size is stored.

    .. math:: u = \frac{\theta_1 - \theta_0}{\|\theta_1 - \theta_0\|}, \qquad
              v \propto (\theta_2 - \theta_0) - \langle \theta_2 - \theta_0, u \rangle u, \quad
              \|v\| = 1, \qquad \theta(x, y) = \theta_0 + x u + y v

    Raises ValueError: there are not three networks, their distances are not finite, or (of values that
    are not traced) two coincide or all are collinear to within a hundredth of the longest distance. See
    Garipov et al. 2018, "Loss Surfaces, Mode Connectivity, and Fast Ensembling of DNNs".

    >>> plane(jnp.array([[1.0, 1.0], [5.0, 1.0], [4.0, 3.0]])).coordinates
    Array([[0., 0.],
           [4., 0.],
           [3., 2.]], dtype=float32)
    """
    n = tree.num_stacked(endpoints)
    if n != 3:
        raise ValueError(
            f"A plane goes through 3 networks but the stack holds {n}; "
            "stack the three to be at the corners."
        )
    sides = jnp.array([[-1.0, 1.0, 0.0], [-1.0, 0.0, 1.0]])  # from the first to the others
    # Inner products of differences: where the networks lie in weight space costs no digits.
    wide = jax.tree.map(tree.widened, endpoints)
    g = tree.gram(jax.vmap(tree.mix, in_axes=(0, None))(sides, wide))
    if not isinstance(g, jax.core.Tracer):
        _check_triangle(np.asarray(g, np.float64))
    base, side = sides.astype(g.dtype)
    length = jnp.sqrt(g[0, 0])
    x = g[0, 1] / length
    height = jnp.sqrt(g[1, 1] - x**2)
    u = base / length
    v = (side - x * u) / height
    zero = jnp.zeros_like(length)
    return Plane(
        origin=jnp.array([1, 0, 0], g.dtype),
        axes=jnp.stack([u, v]),
        coordinates=jnp.stack([zero, zero, length, zero, x, height]).reshape(3, 2),
    )


def grid(plane: Plane, resolution: int, margin: float = 0.2) -> jax.Array:
    """A square grid `[R, R, 2]` over the triangle of a plane, with the same spacing in x and y.

    The entry `[i, j]` is `(x_j, y_i)`; `margin` is a share of the longer side of the triangle's
    bounding box. Raises ValueError: `resolution` `R` is below 2, or `margin` is negative.

    >>> xy = grid(plane(jnp.array([[0.0, 0.0], [4.0, 0.0], [0.0, 2.0]])), 3, margin=0.25)
    >>> xy[0, :, 0], xy[:, 0, 1]
    (Array([-1.,  2.,  5.], dtype=float32), Array([-2.,  1.,  4.], dtype=float32))
    """
    if resolution < 2:
        raise ValueError(f"A grid of resolution {resolution} covers no area; use at least 2.")
    if margin < 0:
        raise ValueError(f"A margin of {margin} cuts the triangle; use at least 0.")
    low, high = plane.coordinates.min(0), plane.coordinates.max(0)
    center, half = (low + high) / 2, (high - low).max() * (0.5 + margin)
    x, y = jnp.linspace(center - half, center + half, resolution, axis=1)
    return jnp.stack(jnp.meshgrid(x, y), axis=-1)


def grid_weights(plane: Plane, xy: jax.Array) -> jax.Array:
    """The mixing weights `[R * R, 3]` of the points of a grid `[R, R, 2]`, row by row, for `along`."""
    return plane.weights(xy).reshape(-1, 3)


def along(
    fn: Callable, endpoints: PyTree, weights: jax.Array, *args: Any, at_once: int | None = None
) -> Any:
    r"""Maps a function over many mixtures of networks, with weights `[P, n]`, in one compiled program.

    `fn` is pure, `(network, *args) -> tree`; the same function object is not compiled again. Memory
    holds `at_once` mixtures, or one. Returns what it returns, with leaves `[P, ...]`. Raises
    ValueError: the weights are not `[P, n]`.

    >>> alphas = jnp.linspace(0, 1, 5)
    >>> weights = jnp.stack([1 - alphas, alphas], axis=1)
    >>> along(lambda w, x: (w - x) ** 2, jnp.array([0.0, 4.0]), weights, jnp.float32(2))
    Array([4., 1., 0., 1., 4.], dtype=float32)
    """
    n = tree.num_stacked(endpoints)
    if jnp.ndim(weights) != 2 or weights.shape[1] != n:
        raise ValueError(
            f"Mixing weights have shape {list(jnp.shape(weights))} but the stack holds {n} "
            f"networks; give one row per point, shape [P, {n}]."
        )
    return _along(fn, at_once, endpoints, jnp.asarray(weights), args)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _along(fn, at_once, endpoints, weights, args):
    return for_each(lambda w: fn(tree.mix(w, endpoints), *args), at_once=at_once)(weights)


def barrier(losses: ArrayLike, alphas: ArrayLike) -> jax.Array:
    r"""The highest excess of losses `[P]` along a path over the straight line between its ends.

    .. math:: \max_p \; L_p - \big((1 - t_p) L_1 + t_p L_P\big),
              \qquad t_p = \frac{\alpha_p - \alpha_1}{\alpha_P - \alpha_1}

    It is at least 0. Raises ValueError: losses and alphas are not vectors of one length of at least 2,
    or concrete `alphas` do not increase. See Entezari et al. 2022, "The Role of Permutation Invariance
    in Linear Mode Connectivity", section 2.

    >>> barrier(jnp.array([1.0, 5.0, 2.0]), jnp.array([0.0, 0.5, 1.0]))
    Array(3.5, dtype=float32)
    """
    losses, alphas = jnp.asarray(losses), jnp.asarray(alphas)
    if losses.shape != alphas.shape or losses.ndim != 1 or losses.size < 2:
        raise ValueError(
            f"losses has shape {list(losses.shape)} and alphas {list(alphas.shape)}; "
            "give vectors of one length of at least 2."
        )
    if not isinstance(alphas, jax.core.Tracer):
        steps = np.diff(np.asarray(alphas, np.float64))
        if not (steps > 0).all():
            p = int(np.argmin(steps > 0))
            raise ValueError(
                f"alphas goes from {float(alphas[p]):g} to {float(alphas[p + 1]):g} at entry "
                f"{p + 1}; sort the points so that alphas increases."
            )
    dtype = tree.wider_dtype(losses, alphas, jnp.float32)
    losses, alphas = losses.astype(dtype), alphas.astype(dtype)
    t = (alphas - alphas[0]) / (alphas[-1] - alphas[0])
    return (losses - ((1 - t) * losses[0] + t * losses[-1])).max()


def output_axis(path: tuple, leaf: jax.Array) -> int:
    """The axis of a kernel's outputs: the first of a `weight` (PyTorch, Equinox), else the last.

    >>> params = {"conv": {"kernel": 0.0}, "linear": {"weight": 0.0}}
    >>> jax.tree.map_with_path(output_axis, params)
    {'conv': {'kernel': -1}, 'linear': {'weight': 0}}
    """
    del leaf
    return 0 if "weight" in tree.own_name(path) else -1


def filter_normalized_direction(
    key: jax.Array, params: PyTree, *, axis: int | AxisOf = output_axis
) -> PyTree:
    r"""A random direction whose filters are as large as those of a network.

    .. math:: d_{ij} \leftarrow \frac{d_{ij}}{\|d_{ij}\|} \, \|\theta_{ij}\|,
              \qquad d_{ij} \sim \mathcal{N}(0, I)

    for filter `j` of kernel `i`, one index of its `axis` of outputs: a number, or `(path, leaf) ->
    number`. What is no kernel does not move. A slice is a mixture of the network and two directions,
    with weights (1, x, y). See Li et al. 2018, "Visualizing the Loss Landscape of Neural Nets", section
    4.

    >>> params = {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}
    >>> direction = filter_normalized_direction(jax.random.key(0), params)
    >>> jnp.sum(direction["kernel"] ** 2, axis=0), direction["bias"]
    (Array([3., 3.], dtype=float32), Array([0., 0.], dtype=float32))
    """
    sizes = filter_norms(params, axis=axis)
    draws = optax.tree.random_like(key, jax.tree.map(tree.widened, params))
    norms = filter_norms(draws, axis=axis)

    def direction(path, x, size, draw, norm):
        if not is_kernel(path, x[None]):
            return jnp.zeros_like(x)
        return (draw * (size / norm).astype(draw.dtype)).astype(x.dtype)

    return jax.tree.map_with_path(direction, params, sizes, draws, norms)


def filter_norms(params: PyTree, *, axis: int | AxisOf = output_axis) -> PyTree:
    r"""For every weight the norm of its filter, at least float32; zero for what is no kernel.

    With `S = diag` of them, the Hessian `S H S` is that of steps relative to the filters of
    `filter_normalized_direction`. See Kwon et al. 2021, "ASAM", section 3.

    >>> filter_norms({"kernel": jnp.array([[3.0, 0.0], [4.0, 2.0]]), "bias": jnp.ones(2)})
    {'bias': Array([0., 0.], dtype=float32), 'kernel': Array([[5., 2.],
           [5., 2.]], dtype=float32)}
    """

    def norms(path, x):
        dtype = tree.real_dtype(x)
        if not is_kernel(path, x[None]):
            return jnp.zeros(x.shape, dtype)
        place = (axis(path, x) if callable(axis) else axis) % x.ndim
        others = tuple(i for i in range(x.ndim) if i != place)
        squares = jnp.sum(jnp.abs(tree.widened(x)) ** 2, axis=others, keepdims=True)
        return jnp.broadcast_to(jnp.sqrt(squares), x.shape)

    return jax.tree.map_with_path(norms, params)


def top_eigenvalue(
    product: Callable[[PyTree], PyTree], like: PyTree, key: jax.Array, *, num_iterations: int
) -> jax.Array:
    r"""The largest *algebraic* eigenvalue of a symmetric linear map, as of products with a Hessian.

    .. math:: \lambda_{\max} = \max_{v \neq 0} \frac{v^\top A v}{v^\top v}

    over the Krylov space of a random vector, by SciPy's `eigsh` on the host: a lower bound up to
    rounding. `product` is `v -> A v`, of trees like `like`, called `m + 2` times for `m =
    num_iterations >= 1` of Lanczos (ten to thirty are enough); `like` has two numbers or more, of which
    shapes and dtypes matter. Returns nan for products that are not finite. Raises ValueError:
    `num_iterations` is below 1, or `like` is complex. See Ghorbani et al. 2019, "An Investigation into
    Neural Net Optimization via Hessian Eigenvalue Density".

    >>> loss_fn = lambda w: 0.5 * jnp.sum(jnp.array([1.0, 3.0, -9.0]) * w**2)
    >>> product = lambda v: jax.jvp(jax.grad(loss_fn), (jnp.ones(3),), (v,))[1]
    >>> top_eigenvalue(product, jnp.ones(3), jax.random.key(0), num_iterations=3)
    Array(3.00, dtype=float32)
    """
    from scipy.sparse.linalg import LinearOperator, eigsh  # slow to import

    if num_iterations < 1:
        raise ValueError(f"num_iterations={num_iterations} finds no eigenvalue; use at least 1.")
    if any(map(jnp.iscomplexobj, jax.tree.leaves(like))):
        raise ValueError(
            "top_eigenvalue got complex numbers, of which a Hessian is no linear map; give it the "
            "function of their real and imaginary parts."
        )
    wide = tree.wider_dtype(jnp.float32, *jax.tree.leaves(like))
    start, as_tree = ravel_pytree(optax.tree.random_like(key, like, dtype=wide))
    start = np.asarray(start)

    def matvec(v: np.ndarray) -> np.ndarray:
        return np.asarray(ravel_pytree(product(as_tree(jnp.asarray(v))))[0])

    first = matvec(start)
    if not (np.isfinite(first).all() and first.any()):  # ARPACK takes neither
        return jnp.asarray(first.sum())
    linear_map = LinearOperator((start.size, start.size), matvec=matvec, dtype=start.dtype)
    # With this tolerance the first Krylov space is the last one.
    options = {"v0": start, "ncv": min(max(num_iterations, 2), start.size), "tol": 1e6}
    return jnp.asarray(eigsh(linear_map, 1, which="LA", return_eigenvectors=False, **options)[0])


def _check_triangle(g: np.ndarray) -> None:
    """Refuses a triangle without a plane, given the inner products of its first two sides."""
    if not np.isfinite(g).all():
        raise ValueError(
            f"The squared distances of networks 1 and 2 from network 0 are {g[0, 0]:g} and "
            f"{g[1, 1]:g}; a plane needs networks of finite weights, so leave out the diverged one."
        )
    sides = np.sqrt(np.maximum([g[0, 0], g[1, 1], g[0, 0] + g[1, 1] - 2 * g[0, 1]], 0))
    height = np.sqrt(max(np.linalg.det(g), 0)) / max(sides.max(), np.finfo(float).tiny)
    if not height > _THINNEST * sides.max():
        raise ValueError(
            "The three networks are collinear, or two coincide: their distances are "
            f"{', '.join(f'{side:.3g}' for side in sides)} and the triangle's height {height:.3g}, not "
            f"above {_THINNEST * sides.max():.3g}; choose one that is not on the line of the others."
        )
