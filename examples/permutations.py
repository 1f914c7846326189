"""Which axes of the experiments' networks run over the same hidden units, for alignment."""

from collections.abc import Mapping

from experiments.system.errors import UserError
from subspace_jax.contrib.alignment import Groups


def permutation_groups(params: Mapping, *, stats: bool = False) -> Groups:
    """The groups of a network of `experiments.training.networks`, in the order from images to logits.

    The channels between two convolutions of a block are a group. So are those of a residual stream:
    everything that is added to it by identity shortcuts has one order of channels; a projection
    begins another one. Images and logits keep their order. With `stats` the paths are those of the
    batch-norm statistics in place of the parameters.

    Example:
      >>> layer = {"kernel": None}
      >>> params = {"Conv_0": layer, "BatchNorm_0": {}, "Dense_0": layer}
      >>> permutation_groups(params, stats=True)
      {'Conv_0': (('BatchNorm_0/mean', -1), ('BatchNorm_0/var', -1))}
    """
    residual = any(name.startswith(("BasicBlock_", "Bottleneck_")) for name in params)
    if not {"Conv_0", "classifier" if residual else "Dense_0"} <= set(params):
        raise UserError(
            f"The network consists of {', '.join(map(str, params))} and is none of "
            "experiments.training.networks; write its groups yourself, as docs/fine_tuning.md does."
        )
    leaves = ((), ("mean", "var")) if stats else (("kernel",), ("scale", "bias"))
    return {
        name: tuple(
            (f"{layer}/{leaf}", axis)
            for layer, axis in members
            for leaf in leaves["norm" in layer.rpartition("/")[2].lower()]
        )
        for name, members in (_residual if residual else _chain)(params).items()
    }


def _chain(params):
    """Convolutions with a norm behind each, then the classifier."""
    convs = [f"Conv_{i}" for i in range(_count(params, "Conv"))]
    return {
        conv: [(conv, -1), (f"BatchNorm_{i}", -1), (reader, -2)]
        for i, (conv, reader) in enumerate(zip(convs, [*convs[1:], "Dense_0"], strict=True))
    }


def _residual(params):
    stream = [("Conv_0", -1), ("BatchNorm_0", -1)]
    groups = {"Conv_0": stream}
    kind = next(kind for kind in ("BasicBlock", "Bottleneck") if _count(params, kind))
    for i in range(_count(params, kind)):
        block = f"{kind}_{i}"
        last = _count(params[block], "Conv") - 1
        stream.append((f"{block}/Conv_0", -2))
        if "shortcut" in params[block]:
            stream.append((f"{block}/shortcut", -2))
            stream = [(f"{block}/shortcut", -1), (f"{block}/shortcut_norm", -1)]
        for j in range(last):
            conv, norm = f"{block}/Conv_{j}", f"{block}/BatchNorm_{j}"
            groups[conv] = [(conv, -1), (norm, -1), (f"{block}/Conv_{j + 1}", -2)]
        stream += [(f"{block}/Conv_{last}", -1), (f"{block}/BatchNorm_{last}", -1)]
        if "shortcut" in params[block]:
            groups[block] = stream
    stream.append(("classifier", -2))
    return groups


def _count(params, kind):
    return sum(name.startswith(f"{kind}_") for name in params)
