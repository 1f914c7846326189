"""Which leaves of a network span a subspace, and which are shared by all of its points.

    spanned, shared = split(network)                     # or with a predicate of your own
    network = combine(line.sample(key, endpoints), shared)

Both parts are trees of the network's structure with None in the other's places. JAX takes None for no
leaf, so that `jax.grad`, Optax, `Subspace.init`, `mix` and penalties work on them as they are.
"""

from collections.abc import Callable
from typing import Any

import jax

from subspace_jax import tree
from subspace_jax.tree import PyTree

Spans = Callable[[tuple, Any], bool]


def is_floating(path: tuple, leaf: Any) -> bool:
    """Whether a leaf is an array of floating (or complex) numbers, which has a mean."""
    del path
    return hasattr(leaf, "dtype") and tree.is_mixable(leaf)


def split(network: PyTree, spans: Spans = is_floating) -> tuple[PyTree, PyTree]:
    """Parts a network into the leaves that span a subspace and those that all its points share.

    `spans` is `(path, leaf [...]) -> bool`; by default all floating leaves span it. Batch-norm
    statistics are floating but no parameters: keep them out of `network` and `recalibrate` them.
    Returns `(spanned, shared)`, each with None where the other has the leaf. Raises TypeError: `spans`
    asks for a leaf that can't be mixed; ValueError: it asks for none.

    >>> import jax.numpy as jnp
    >>> split({"w": jnp.ones(2), "steps": 7})
    ({'steps': None, 'w': Array([1., 1.], dtype=float32)}, {'steps': 7, 'w': None})
    """
    chosen = jax.tree.map_with_path(lambda path, leaf: bool(spans(path, leaf)), network)
    spanned = jax.tree.map(lambda leaf, mine: leaf if mine else None, network, chosen)
    for path, leaf in jax.tree.leaves_with_path(spanned):
        if not is_floating(path, leaf):
            raise TypeError(
                f"Leaf {tree.leaf_name(path)} {tree.kind(leaf)} and can't be mixed, so that it can't "
                "span a subspace; let `spans` return False for it, as `is_floating` does."
            )
    if not jax.tree.leaves(spanned):
        raise ValueError(
            f"None of the {len(jax.tree.leaves(network))} leaves of the network spans the subspace; "
            "let `spans` return True for at least one floating array."
        )
    return spanned, jax.tree.map(lambda leaf, mine: None if mine else leaf, network, chosen)


def combine(*parts: PyTree) -> PyTree:
    """Joins what `split` parted: each leaf from the tree that has it, None where no tree has.

    Raises ValueError: there is no tree, two have the same leaf, or their structures differ.

    >>> combine({"w": 1.0, "steps": None}, {"w": None, "steps": 7})
    {'steps': 7, 'w': 1.0}
    """
    if not parts:
        raise ValueError("combine got 0 trees; give it the parts that `split` returned.")
    structures: list[Any] = [jax.tree.structure(part, is_leaf=_is_none) for part in parts]
    for structure in structures[1:]:
        if structure != structures[0]:
            raise ValueError(
                f"The trees of `combine` differ in structure: {structures[0]} and {structure}; "
                "give it parts of one network, with None where another part has the leaf."
            )

    def only(path, *leaves):
        present = [leaf for leaf in leaves if leaf is not None]
        if len(present) > 1:
            raise ValueError(
                f"Leaf {tree.leaf_name(path)} is in {len(present)} of the trees of `combine`; "
                "give it parts that have no leaf in common, as `split` returns."
            )
        return present[0] if present else None

    return jax.tree.map_with_path(only, *parts, is_leaf=_is_none)


def summary(endpoints: PyTree, *, shared: PyTree = None) -> str:
    """A table of what spans a subspace, what its points share, and what it takes in memory.

    `endpoints` are arrays or their shapes (`jax.eval_shape`), and `shared` is the other part of `split`.
    Raises ValueError: the endpoints have no leaves or disagree on `n`; TypeError: one of their leaves
    can't be mixed.

    >>> import jax.numpy as jnp
    >>> print(summary({"w": jnp.zeros((2, 3, 4))}))
    leaf  shape       role     dtype    bytes
    w     2 x [3, 4]  spanned  float32   96 B
    <BLANKLINE>
    spanned  1 leaf, 2 endpoints of 12 numbers  96 B
    total                                       96 B
    """
    tree.check_mixable(endpoints)
    n = tree.num_stacked(endpoints)
    rows, totals, unmixable = [("leaf", "shape", "role", "dtype", "bytes")], [], []
    for role, part in (("spanned", endpoints), ("shared", shared)):
        count = size = 0
        members = jax.tree.leaves_with_path(part)
        for path, leaf in members:
            shape, kind, numbers, num_bytes = "-", type(leaf).__name__, 0, 0
            if hasattr(leaf, "dtype"):
                shape, kind, numbers = str(list(leaf.shape)), str(leaf.dtype), leaf.size
                num_bytes = numbers * leaf.dtype.itemsize
            if role == "spanned":
                shape = f"{n} x {list(leaf.shape[1:])}"
            name = tree.path_text(path) or tree.leaf_name(path)
            rows.append((name, shape, role, kind, _human(num_bytes)))
            if shape != "-" and not is_floating(path, leaf):
                unmixable.append(name)
            count, size = count + numbers, size + num_bytes
        if members:
            what = _many(count, "number")
            if role == "spanned":
                what = f"{_many(n, 'endpoint')} of {_many(count // n, 'number')}"
            totals.append((role, f"{_many(len(members), 'leaf')}, {what}", size))
    totals.append(("total", "", sum(size for *_, size in totals)))
    parts = [_table(rows), _table([(*of, _human(size)) for *of, size in totals])]
    if unmixable:
        named = ", ".join(unmixable[:3]) + (", ..." if len(unmixable) > 3 else "")
        count, verb = len(unmixable), "is" if len(unmixable) == 1 else "are"
        said = f"{_many(count, 'integer or key leaf')} ({named}) {verb} shared: "
        parts.append(said + "a mean of such leaves means nothing.")
    return "\n\n".join(parts)


def _is_none(leaf):
    return leaf is None


def _human(size):
    units, power = ("B", "KiB", "MiB", "GiB"), 0
    while size >= 1024 and power < len(units) - 1:
        size, power = size / 1024, power + 1
    return f"{size:,.1f} {units[power]}" if power else f"{size} B"


def _many(count, noun):
    plural = f"{noun[:-1]}ves" if noun.endswith("leaf") else f"{noun}s"
    return f"{count:,} {noun if count == 1 else plural}"


def _table(rows):
    """Columns as wide as they need, the last one to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
    for line, row in zip(lines, rows, strict=True):
        line[-1] = row[-1].rjust(widths[-1])
    return "\n".join("  ".join(line) for line in lines)
