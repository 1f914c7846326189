r"""Import weights that PyTorch trained, so that runs can start from them.

FILE has torchvision's names of tensors, or those of the authors' code of Learning Neural Network
Subspaces: one network, or the endpoints of a line, curve or simplex. It is a .safetensors, an .npz, or
a state dict (.pt, .pth, .bin, .tar), for which PyTorch must be installed and no code of the file is run.

OUT is a new folder with
  weights.npz      the network or the endpoints, for --config.init_from of a run
  batch_stats.npz  the running statistics of batch norm; runs measure their own
  import.json      where it is from, and the config.model that it fits
If tensors are missing, too many, or of other shapes, all are counted, up to five of each kind named,
and nothing is written.

examples:
  python -m experiments.import_weights resnet50.safetensors imported/resnet50 --model resnet50
  python -m experiments.import_weights resnet50.pth imported/body --model resnet50 --head new
  python -m experiments.import_weights epoch_160.pt imported/curve --model cifar_resnet --shape curve

then, with what the import prints:
  python -m experiments.imagenet --config experiments/configs/imagenet.py:line \
      --config.init_from=imported/resnet50/weights.npz --workdir runs/tuned ...
"""

import functools
import hashlib
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
from ml_collections import ConfigDict

from experiments.configs.check import check_network
from experiments.import_weights import torch_files, torch_names
from experiments.system import cli, files
from experiments.system.errors import UserError
from experiments.training import starting, weights
from experiments.training.models import IMAGENET_RESNETS, STEMS, make_network
from subspace_jax.tree import PyTree, num_stacked

STATISTICS, RECORD = "batch_stats.npz", "import.json"
MODELS = (*IMAGENET_RESNETS, "cifar_resnet")
# shape -> the number of its endpoints, or 0 for any, and where the file has them, in our order.
SHAPES = {"line": (2, (0, 1)), "curve": (3, (0, 2, 1)), "simplex": (0, ())}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns its exit code."""
    parser = cli.parser("experiments.import_weights", __doc__)
    add = parser.add_argument
    add("file", metavar="FILE", help="weights by PyTorch's names")
    add("out", metavar="OUT", help="folder to make")
    add("--model", required=True, choices=MODELS, help="the network that FILE holds")
    add(
        "--stem",
        default="imagenet",
        choices=STEMS,
        help="of a resnet: imagenet (7x7, torchvision's names) or small (3x3, the authors' names for "
        "Tiny-ImageNet); default: %(default)s",
    )
    add("--depth", type=int, default=20, help="of cifar_resnet; default: 20")
    add("--width", type=int, help="channels of the stem; default: 64, of cifar_resnet 16")
    add(
        "--head",
        default="keep",
        choices=starting.HEADS,
        help="the classifier of FILE: keep it, or leave it out for classes of your own, so that each "
        "endpoint of a run with --config.init_head=new draws its own; default: %(default)s",
    )
    add(
        "--shape",
        choices=list(SHAPES),
        help="what FILE's endpoints span; needed for three, which may be a curve (whose bend the "
        "authors have last, and we in the middle) or a simplex",
    )
    options = parser.parse_args(argv)
    return cli.exit_code(functools.partial(import_weights, options))


def import_weights(options: SimpleNamespace) -> Path:
    """Imports a file as the options of the command line say; the folder is whole or not there."""
    source, folder = Path(options.file).expanduser(), Path(options.out).expanduser()
    if folder.exists():
        raise UserError(f"{folder} exists; name a new folder, or delete it yourself.")
    networks = torch_files.read(source)
    order = endpoint_order(networks[0], options.shape, str(source))
    config = _model(networks[0], options)
    # Without a classifier there is no number of classes, and none is needed.
    num_classes = next(iter(np.shape(networks[0].get("fc.weight"))), 0) or 1
    network, head = make_network(config, num_classes), options.head == "keep"
    imported = [
        torch_names.from_torch(network, tensors, order, head=head, source=str(source))
        for tensors in networks
    ]
    variables = jax.tree.map(lambda *leaves: np.concatenate(leaves), *imported)
    record = {
        "source": str(source.absolute()),
        "source_sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
        "model": config.to_dict(),
        "num_classes": num_classes if head else None,
        "head": options.head,
        "shape": options.shape,
        "num_networks": num_stacked(variables["params"]),
    }
    with files.whole_folder(folder) as made:
        weights.save(made / weights.FILE, variables["params"])
        weights.save(made / STATISTICS, variables["batch_stats"])
        files.write_json(made / RECORD, record)
    print(_said(folder, variables["params"], record))
    return folder


def endpoint_order(
    tensors: Mapping[str, np.ndarray], shape: str | None, source: str = "The file"
) -> tuple[int, ...]:
    """The numbers of a file's endpoints in our order; `weight1` is the second endpoint's tensor."""
    numbers = [re.search(r"\.(?:weight|bias)(\d+)$", name) for name in tensors]
    found = 1 + max((int(number[1]) for number in numbers if number), default=0)
    if shape is None and found == 3:
        raise UserError(
            f"{source} holds 3 endpoints, of a curve or of a simplex; say which: --shape curve or "
            "--shape simplex."
        )
    expected, order = SHAPES[shape or "simplex"]
    if expected not in (0, found):
        raise UserError(
            f"{source} holds {found} endpoint{'s' if found > 1 else ''} but --shape {shape} has "
            f"{expected}; leave --shape out or name another."
        )
    return order or tuple(range(found))


def _model(tensors: Mapping[str, np.ndarray], options: SimpleNamespace) -> ConfigDict:
    """`config.model` of the network that the tensors are said to be of."""
    if options.model == "cifar_resnet":
        own = {"width": 16, "depth": options.depth}
    else:
        own = {"width": 64, "stem": options.stem}
        own |= {"classifier_bias": "fc.bias" in tensors} if options.head == "keep" else {}
    own |= {} if options.width is None else {"width": options.width}
    config = ConfigDict({"name": options.model, **own})
    check_network(config)
    return config


def _said(folder: Path, params: PyTree, record: dict) -> str:
    count, model = record["num_networks"], record["model"]
    size = sum(leaf.size for leaf in jax.tree.leaves(params)) // count
    classes = f"{record['num_classes']:,} classes" if record["num_classes"] else "no classifier"
    flags = [f"--config.init_from={folder / weights.FILE}"]
    flags += [f"--config.init_head={record['head']}"] if record["head"] != "keep" else []
    flags += [f"--config.model.{name}={value}" for name, value in model.items()]
    return (
        f"{folder} holds {count} network{'s' if count > 1 else ''}, {model['name']}, {classes}, "
        f"{size:,} parameters each.\n"
        f"Start a run from it with\n  {' '.join(flags)}"
    )


if __name__ == "__main__":
    sys.exit(main())
