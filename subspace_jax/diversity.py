"""How far apart the endpoints are: the cosine penalty and distances, both from one Gram matrix."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from subspace_jax import tree
from subspace_jax.tree import PyTree

Select = Callable[[tuple, jax.Array], bool]


def is_kernel(path: tuple, leaf: jax.Array) -> bool:
    """Whether a leaf `[n, ...]` of the endpoints is a kernel: of rank two or more in one network.

    Biases and scales are not: they start equal at all endpoints.
    """
    del path
    return leaf.ndim > 2


def kernel_gram(endpoints: PyTree, select: Select = is_kernel) -> jax.Array:
    """Inner products `[n, n]` between endpoints over the leaves that `select` names.

    Raises ValueError: no leaf is selected.

    >>> kernel_gram({"kernel": jnp.ones((2, 3, 4)), "bias": jnp.ones((2, 4))})[0, 1]
    Array(12., dtype=float32)
    """
    return tree.gram(_kernels(endpoints, select))


def _kernels(endpoints, select) -> list[jax.Array]:
    leaves = jax.tree.leaves_with_path(endpoints)
    selected = [leaf for path, leaf in leaves if select(path, leaf)]
    if not selected:
        raise ValueError(
            f"None of the {len(leaves)} leaves of the endpoints is selected as a kernel (by default "
            "those of rank 2 or more in one network); pass `select` to name the ones that count."
        )
    return selected


def squared_cosines(endpoints: PyTree, select: Select = is_kernel) -> jax.Array:
    r"""Squared cosine similarities `[n, n]` between endpoints; 0 in the row of one that is zero.

    .. math:: C_{ij} = \frac{\langle\theta_i, \theta_j\rangle^2}{\|\theta_i\|^2 \|\theta_j\|^2}

    Raises ValueError: no leaf is selected.

    >>> squared_cosines(jnp.array([[[1.0, 0.0]], [[1.0, 1.0]]]))[0, 1]
    Array(0.5, dtype=float32)
    """
    return _squared_cosines_of(kernel_gram(endpoints, select))


def _squared_cosines_of(gram):
    squared_norms = jnp.diagonal(gram)
    return _squared_cosine(gram, squared_norms[:, None], squared_norms[None, :])


def _squared_cosine(product, first, second):
    """Of an inner product and two squared norms; 0 if one of these is."""
    # Scaled to a norm of about one before anything is squared: tiny and huge ones have finite gradients.
    ones = [jnp.where(norm > 0, norm, 1) for norm in (first, second)]
    scales = [jax.lax.rsqrt(jax.lax.stop_gradient(one)) for one in ones]
    cosine = product * scales[0] * scales[1]
    shares = [cosine / (one * scale * scale) for one, scale in zip(ones, scales, strict=True)]
    return jnp.where((first > 0) & (second > 0), shares[0] * shares[1], 0)


def cosine_penalty(
    endpoints: PyTree, key: jax.Array | None = None, *, select: Select = is_kernel
) -> jax.Array:
    r"""The regulariser that drives the endpoints apart in direction, in [0, 1].

    .. math:: \mathbb{E}_{i \neq j} \cos^2(\theta_i, \theta_j)

    with the mean over all pairs or, when a key is given, one random pair. Each cosine is between all
    leaves that `select`, `(path, leaf [n, ...]) -> bool`, names, concatenated: by default those of rank
    two or more in one network. Raises ValueError: there is one endpoint (no pair), or no leaf is
    selected. See Wortsman et al. 2021, "Learning Neural Network Subspaces", Eq. 3.

    >>> cosine_penalty({"kernel": jnp.array([[[1.0, 0.0]], [[1.0, 1.0]]])})
    Array(0.5, dtype=float32)
    """
    n = tree.num_stacked(endpoints)
    _check_pairs(n)
    if key is None:
        return penalty_of_gram(kernel_gram(endpoints, select))
    kernels = [tree.as_real(tree.widened(x)) for x in _kernels(endpoints, select)]
    pair = _random_pair(key, n)
    # One-hot weights select the pair: a stack that is sharded over its endpoints is not gathered.
    # The gradient is elementwise, which XLA fuses into the optimizer: no stack of it is kept.
    first, second = (tree.mix(jax.nn.one_hot(i, n), kernels) for i in pair)

    def inner(x, y):
        return sum(tree.contract(a, b, 0) for a, b in zip(x, y, strict=True))

    return _squared_cosine(inner(first, second), inner(first, first), inner(second, second))


def feature_cosine_penalty(first: PyTree, second: PyTree) -> jax.Array:
    r"""The squared cosine of two networks' features of one batch, in [0, 1].

    .. math:: \cos^2(f_1, f_2) = \frac{\langle f_1, f_2 \rangle^2}{\|f_1\|^2 \|f_2\|^2}

    of arrays, or trees of several layers, as one vector each. The authors multiply it by the distance
    of the two points on the line and add it to the loss. Raises ValueError: the trees differ in
    structure or shapes. See Wortsman et al. 2021, "Learning Neural Network Subspaces", appendix B.

    >>> feature_cosine_penalty(jnp.array([[1.0, 0.0]]), jnp.array([[1.0, 1.0]]))
    Array(0.5, dtype=float32)
    """
    return penalty_of_gram(tree.gram(tree.stack([first, second])))


def penalty_of_gram(gram: jax.Array, key: jax.Array | None = None) -> jax.Array:
    """The cosine penalty from inner products `[n, n]` between the endpoints; see `cosine_penalty`."""
    n = gram.shape[0]
    _check_pairs(n)
    cosines = _squared_cosines_of(gram)
    if key is not None:
        first, second = _random_pair(key, n)
        return cosines[first, second]
    off_diagonal = ~jnp.eye(n, dtype=bool)  # leaves no ones to cancel: the rest may be tiny
    return cosines.mean(where=off_diagonal)


def _check_pairs(n) -> None:
    if n < 2:
        raise ValueError(
            f"The cosine penalty is between pairs but there is {n} endpoint; "
            "train it without a penalty or use at least 2 endpoints."
        )


def _random_pair(key, n) -> jax.Array:
    return jax.random.choice(key, n, (2,), replace=False)


def distances(endpoints: PyTree, select: Select = is_kernel) -> jax.Array:
    r"""Euclidean distances `[n, n]` between endpoints, over the selected leaves, in units of weights.

    .. math:: D_{ij} = \|\theta_i - \theta_j\| = \sqrt{G_{ii} + G_{jj} - 2 G_{ij}}

    Below a thousandth of the endpoints' norms they are rounding. Raises ValueError: no leaf is selected.

    >>> distances(jnp.array([[[0.0, 0.0]], [[3.0, 4.0]]]))[0, 1]
    Array(5., dtype=float32)
    """
    g = kernel_gram(endpoints, select)
    squared_norms = jnp.diagonal(g)
    squared = squared_norms[:, None] + squared_norms[None, :] - 2 * g
    apart = squared > 0  # the gradient of a distance of 0 is taken to be 0
    return jnp.where(apart, jnp.sqrt(jnp.where(apart, squared, 1)), 0)
