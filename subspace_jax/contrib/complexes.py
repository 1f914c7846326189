"""Simplexes that share vertices, and the volume that keeps their vertices apart (SPRO)."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from subspace_jax import tree
from subspace_jax.diversity import Select
from subspace_jax.subspaces import Subspace, normalised, one_object
from subspace_jax.tree import PyTree


@one_object
def simplicial_complex(simplexes: tuple[tuple[int, ...], ...]) -> Subspace:
    r"""Simplexes that share vertices: a random point lies on one of them.

    .. math:: \theta(w) = \sum_{i=1}^{n} w_i \theta_i, \qquad w_i = 0 \text{ for } i \notin S,
              \quad S \text{ uniform among the simplexes, } w_S \text{ uniform on it}

    Of ((0, 2), (1, 2)) the networks 0 and 1 are connected through 2. The center is the mean of all
    vertices, which may lie outside: predict with an ensemble of random points. Raises ValueError: there
    is no simplex, one has no vertex or one twice, or a number is left out. See Benton et al. 2021,
    "Loss Surface Simplexes for Mode Connecting Volumes and Fast Ensembling".

    >>> weights = simplicial_complex(((0, 2), (1, 2))).draw(jax.random.key(0))
    >>> weights.shape, int((weights == 0).sum())
    ((3,), 1)
    """
    vertices = sorted({vertex for simplex in simplexes for vertex in simplex})
    n = len(vertices)
    if vertices != list(range(n)) or not all(simplexes) or not n:
        raise ValueError(
            f"The simplexes {simplexes} have the vertices {vertices}; give at least one simplex of at "
            "least one vertex, and name each of 0, 1, ... in some."
        )
    if any(len(set(simplex)) < len(simplex) for simplex in simplexes):
        raise ValueError(f"The simplexes {simplexes} name a vertex twice in one; name it once.")
    members = np.zeros((len(simplexes), n), np.float32)
    for row, simplex in zip(members, simplexes, strict=True):
        row[list(simplex)] = 1

    def draw(key):
        choice_key, point_key = jax.random.split(key)
        chosen = jax.random.randint(choice_key, (), 0, len(simplexes))
        return normalised(jax.random.exponential(point_key, (n,)), jnp.asarray(members)[chosen])

    return Subspace(n, draw, lambda coords: coords, np.full(n, 1 / n))


def log_volume(
    endpoints: PyTree,
    select: Select = lambda path, leaf: True,
    *,
    vertices: Sequence[int] | None = None,
) -> jax.Array:
    r"""Logarithm of the volume of the simplex that `vertices` (by default all endpoints) span.

    .. math:: \log V = \tfrac12 \log\det G - \log k!, \qquad
              G_{ij} = \langle \theta_i - \theta_0, \theta_j - \theta_0 \rangle, \; i, j = 1 .. k

    over the leaves that `select` names, all by default. A millionth of its mean diagonal is added to
    that of G, so that flat simplexes have finite volumes and gradients. Raises ValueError: there are
    fewer than two vertices, or no leaf is selected. See Benton et al. 2021, "Loss Surface Simplexes".

    >>> corners = jnp.array([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])  # a triangle of area 6
    >>> round(float(jnp.exp(log_volume(corners))), 3)
    6.0
    """
    n = tree.num_stacked(endpoints)
    vertices = tuple(range(n)) if vertices is None else tuple(vertices)
    k = len(vertices) - 1
    if k < 1:
        raise ValueError(f"A simplex of {k + 1} vertices has no volume; use at least 2.")
    edges = np.zeros((k, n), np.float32)
    edges[:, vertices[0]] -= 1
    edges[np.arange(k), list(vertices[1:])] += 1
    leaves = jax.tree.leaves_with_path(endpoints)
    selected = [tree.widened(x) for path, x in leaves if select(path, x)]
    if not selected:
        raise ValueError("No leaf of the endpoints is selected; let `select` name at least one.")
    g = tree.gram(jax.vmap(tree.mix, in_axes=(0, None))(jnp.asarray(edges), selected))
    apart = jnp.trace(g) > 0
    # Scaled to about one first, so that tiny and huge simplexes have finite gradients.
    size = jax.lax.stop_gradient(jnp.where(apart, jnp.trace(g) / k, 1e-14))
    g = g / size
    scale = jnp.where(apart, jnp.trace(g) / k, 1)
    log_det = jnp.linalg.slogdet(g / scale + 1e-6 * jnp.eye(k, dtype=g.dtype))[1]
    return 0.5 * (log_det + k * (jnp.log(scale) + jnp.log(size))) - math.lgamma(k + 1)
