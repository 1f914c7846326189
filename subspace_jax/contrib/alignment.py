r"""Permutations of hidden units that bring a trained network close to another one.

A network whose hidden units (and the weights that read them) are permuted is the same function, and a
line between networks that were trained independently crosses ones that predict badly.

    aligned = align(reference, network, groups)
    endpoints = line.grow([reference, aligned])

A *group* is what is permuted together: the axes, in several leaves, that run over the same units.

    groups = {"hidden": (("Dense_0/kernel", -1), ("Dense_0/bias", -1), ("Dense_1/kernel", -2))}

A residual stream is one group: all that is added to it, and all that reads it.
"""

import re
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from subspace_jax import tree
from subspace_jax.tree import PyTree

# name -> the (path, axis) that are permuted together. A path's names are joined by "/".
Groups = Mapping[str, tuple[tuple[str, int], ...]]
# name -> [units]; place i of the result is unit `permutation[i]` of the network.
Permutations = Mapping[str, np.ndarray]


def attention_heads(params: PyTree) -> dict[str, tuple[tuple[str, int], ...]]:
    """A group of the heads of each multi-head attention of Flax, NNX or Linen, among parameters.

    Heads have no order either: their axes in the kernels and biases of `query`, `key` and `value`,
    `[..., heads, features]`, and of `out`, `[heads, features, ...]`, are permuted together. What reads
    and writes a residual stream is a group that you add. Raises ValueError: there is no attention.

    >>> attention = dict.fromkeys(("query", "key", "value"), {"kernel": jnp.ones((6, 2, 3))})
    >>> attention["out"] = {"kernel": jnp.ones((2, 3, 6))}
    >>> attention_heads({"block": attention})["block/heads"][:2]
    (('block/key/kernel', -2), ('block/out/kernel', -3))
    """
    found: dict[str, dict] = {}
    needed = {(part, "kernel") for part in ("query", "key", "value", "out")}
    for path, leaf in _by_path(params).items():
        match = re.fullmatch(r"(.*/)?(query|key|value|out)/(kernel|bias)(/value)?", path)
        if match and leaf.ndim == {"kernel": 3, "bias": 2}[match[3]]:
            axis = -3 if match[2] == "out" else -2
            found.setdefault(f"{match[1] or ''}heads", {})[match[2], match[3]] = path, axis
    groups = {name: tuple(of.values()) for name, of in found.items() if needed <= of.keys()}
    if not groups:
        raise ValueError(
            f"None of the {len(jax.tree.leaves(params))} leaves is of an attention of Flax, with "
            "kernels [inputs, heads, features] of query, key and value and [heads, features, outputs] "
            "of out; name the groups yourself."
        )
    return groups


def align(reference: PyTree, network: PyTree, groups: Groups) -> PyTree:
    """The network with its hidden units in the order of the reference's: `permute` what `match` finds.

    >>> groups = {"hidden": (("in", 1), ("out", 0))}
    >>> one = {"in": jnp.array([[1.0, 2.0]]), "out": jnp.array([[3.0], [4.0]])}
    >>> other = {"in": jnp.array([[2.0, 1.0]]), "out": jnp.array([[4.0], [3.0]])}
    >>> align(one, other, groups)["out"].tolist()
    [[3.0], [4.0]]
    """
    return permute(network, groups, match(reference, network, groups))


def permute(network: PyTree, groups: Groups, permutations: Permutations) -> PyTree:
    """A network, or its batch-norm statistics, with the units of its groups in another order.

    Raises ValueError: a path, an axis or a permutation that the network or the groups do not have.

    >>> permute({"w": jnp.array([1.0, 2.0])}, {"units": (("w", 0),)}, {"units": np.array([1, 0])})
    {'w': Array([2., 1.], dtype=float32)}
    """
    sizes = _sizes(_by_path(network), groups)
    if unknown := sorted(permutations.keys() - groups.keys()):
        raise ValueError(
            f"There is no group {unknown[0]!r}; there are {', '.join(map(repr, groups))}."
        )
    for name, permutation in permutations.items():
        if not np.array_equal(np.sort(permutation), np.arange(sizes[name])):
            raise ValueError(
                f"The permutation of group {name!r} has {len(permutation)} entries and is none of its "
                f"{sizes[name]} units; name each of 0 to {sizes[name] - 1} once."
            )
    axes = _axes(groups)

    def reorder(path, leaf):
        for axis, name in axes.get(tree.path_text(path), ()):
            if name in permutations:
                leaf = jnp.take(leaf, jnp.asarray(permutations[name]), axis=axis)
        return leaf

    return jax.tree.map_with_path(reorder, network)


def match(reference: PyTree, network: PyTree, groups: Groups) -> dict[str, np.ndarray]:
    r"""Permutations `{name: [units]}` that bring a network close to a reference in weight space.

    .. math:: \min_{\pi} \|\theta_{\text{ref}} - \pi(\theta)\|^2

    by coordinate descent: one group after another gets the best permutation given the others, a linear
    assignment, until nothing changes. It starts from the identity and from an order that is found front
    to back, and returns the closer result. A network whose units were only permuted is found again if
    groups are in the order of the network and earlier weights tell its units apart.

    Raises ValueError: leaves differ in shape, a path or an axis that there is not, axes of one group
    that differ in size, an axis that is named twice, or weights that are not finite. See Ainsworth,
    Hayase, Srinivasa 2023, "Git Re-Basin: Merging Models modulo Permutation Symmetries", section 3.2.

    >>> units = {"units": (("w", 0),)}
    >>> match({"w": jnp.array([1.0, 2.0])}, {"w": jnp.array([2.0, 1.0])}, units)
    {'units': array([1, 0])}
    """
    pairs = _Pairs(reference, network, groups)
    identity = {name: np.arange(size) for name, size in pairs.sizes.items()}
    found = [pairs.descend(start) for start in (pairs.front_to_back(), identity)]
    return min(found, key=pairs.distance)


class _Pairs:
    """Leaves of two networks that groups name, in float64, and permutations between them."""

    def __init__(self, reference, network, groups):
        first, second = _by_path(reference), _by_path(network)
        self.sizes = _sizes(second, groups)
        self.groups, self.axes = groups, _axes(groups)
        self.first, self.second = {}, {}
        for path in self.axes:
            ours, theirs = tree.on_host(first.get(path, 0)), tree.on_host(second[path])
            if ours.shape != theirs.shape:
                raise ValueError(
                    f"Leaf {path} has the shapes {list(ours.shape)} and {list(theirs.shape)} in the "
                    "reference and the network; align networks of one architecture."
                )
            if not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
                raise ValueError(f"Leaf {path} has weights that are not finite; align others.")
            self.first[path], self.second[path] = ours, theirs

    def front_to_back(self):
        """Each group by those leaves whose other axes are settled, in the order of the groups."""
        found = {}
        for name in self.groups:
            settled = [
                (path, axis)
                for path, axis in self.groups[name]
                if all(other in found for at, other in self.axes[path] if at != axis)
            ]
            found[name] = self._assign(name, settled or self.groups[name], found)
        return found

    def descend(self, found):
        improved = True
        while improved:
            improved = False
            for name, members in self.groups.items():
                paths = {path for path, _ in members}
                candidate = found | {name: self._assign(name, members, found)}
                # Rounding is no improvement: the descent must end.
                bound = self.distance(found, paths) * (1 - 1e-12)
                if self.distance(candidate, paths) < bound:
                    found, improved = candidate, True
        return found

    def distance(self, found, paths=None):
        """Squared, between the reference and the permuted network, over some leaves or all."""
        return sum(
            np.sum(np.abs(self.first[path] - self._permuted(path, found)) ** 2)
            for path in paths or self.axes
        )

    def _assign(self, name, members, found):
        """The permutation of one group that maximises the inner product, given the others."""
        from scipy.optimize import linear_sum_assignment  # slow to import

        products = np.zeros((self.sizes[name], self.sizes[name]))
        for path, axis in members:
            ours = _rows(self.first[path], axis)
            theirs = _rows(self._permuted(path, found, but=(axis % self.first[path].ndim)), axis)
            products += (ours.conj() @ theirs.T).real
        return linear_sum_assignment(products, maximize=True)[1]

    def _permuted(self, path, found, but=None):
        leaf = self.second[path]
        for axis, name in self.axes[path]:
            if name in found and axis % leaf.ndim != but:
                leaf = np.take(leaf, found[name], axis)
        return leaf


def _rows(leaf, axis):
    return np.moveaxis(leaf, axis, 0).reshape(leaf.shape[axis], -1)


def _by_path(network):
    return {tree.path_text(path): leaf for path, leaf in jax.tree.leaves_with_path(network)}


def _axes(groups):
    """path -> the (axis, group) of it."""
    axes = {}
    for name, members in groups.items():
        for path, axis in members:
            axes.setdefault(path, []).append((axis, name))
    return axes


def _sizes(leaves, groups):
    """How many units each group has."""
    sizes, owners = {}, {}
    for name, members in groups.items():
        if not members:
            raise ValueError(f"Group {name!r} names 0 axes; name one at least, or leave it out.")
        for path, axis in members:
            if path not in leaves:
                raise ValueError(
                    f"Group {name!r} names the leaf {path!r} but the network has none of this name; "
                    f"use one of {', '.join(leaves)}."
                )
            shape = jnp.shape(leaves[path])
            if not -len(shape) <= axis < len(shape):
                raise ValueError(
                    f"Group {name!r} names axis {axis} of leaf {path} but its shape is {list(shape)}; "
                    "name one of its axes."
                )
            place = (path, axis % len(shape))
            if place in owners:
                raise ValueError(
                    f"Axis {axis} of leaf {path} is named twice, in groups {owners[place]!r} and "
                    f"{name!r}; what is permuted together is one group."
                )
            owners[place] = name
            size = sizes.setdefault(name, shape[axis])
            if shape[axis] != size:
                raise ValueError(
                    f"Group {name!r} has {size} units in leaf {members[0][0]} and {shape[axis]} in axis "
                    f"{axis} of leaf {path}; name axes that run over the same units."
                )
    return sizes
