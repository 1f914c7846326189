"""Training steps of the article's authors' own code beside ours: the same weights, batches and draws."""

import argparse
import contextlib
import dataclasses
import importlib
import io
import itertools
import sys
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

import subspace_jax as ss
from benchmarks.command import Count, make_main
from benchmarks.contestants import images_and_labels
from benchmarks.table import table
from experiments.configs import cifar10
from experiments.data.augment import normalize
from experiments.data.sets import Dataset, Split
from experiments.import_weights.torch_names import to_torch
from experiments.system import launch
from experiments.system.errors import UserError
from experiments.system.provenance import commit
from experiments.training import steps
from experiments.training.run import Run, make_run

DESCRIPTION = """Takes steps by the article's authors' own code and by ours, and says how far they part.

    git clone https://github.com/apple/learning-subspaces
    python -m benchmarks.parity --authors_code learning-subspaces [--output FOLDER]

Their network, optimizer and training function run as they are, in PyTorch (`python -m pip install -e
'.[benchmarks]'`), and get our initial weights, batches, points of the subspace and pairs of the
penalty. What is compared is every step's loss and all weights after it, in float64 and float32."""

ADDRESS = "https://github.com/apple/learning-subspaces"
DTYPES = ("float64", "float32")
_PRECISIONS = {"float64": jnp.float64, "float32": jnp.float32}


class Kind(NamedTuple):
    """A way of training: its recipe, and what the authors' code calls it.

    `order` has, for every endpoint that they number, which one of ours it is.
    """

    recipe: str
    conv_type: str
    bn_type: str
    trainer: str
    order: tuple[int, ...]


_LINES = ("LinesConv", "LinesBN", "train_one_dim_subspaces", (0, 1))
KINDS = {
    "standard": Kind("standard", "StandardConv", "StandardBN", "default", (0,)),
    "line": Kind("line", *_LINES),
    "layerwise line": Kind("layerwise_line", *_LINES),
    # Their third network is what bends the curve.
    "curve": Kind("curve", "CurvesConv", "CurvesBN", "train_one_dim_subspaces", (0, 2, 1)),
    "simplex of 3": Kind("simplex_3", "SimplexConv3", "SimplexBN3", "train_simplexes", (0, 1, 2)),
}
_MODULES = ("utils", "schedulers", "models", "trainers")
FILES = ("args.py", "utils.py", "schedulers.py", "models/cifar_resnet.py", "trainers/default.py")


COUNTS = {"steps": Count(10), "batch_size": Count(16)}
OTHERS = {
    "authors_code": {"type": Path, "required": True, "help": f"a clone of {ADDRESS}"},
    "kinds": {"nargs": "+", "choices": tuple(KINDS), "default": tuple(KINDS)},
}


def measure(options: argparse.Namespace) -> dict:
    """The differences of all kinds and dtypes at every step."""
    code = authors_code(options.authors_code)
    found = {name: {} for name in options.kinds}
    for name in tqdm.tqdm(options.kinds, unit="kind", desc="steps"):
        for dtype in DTYPES:
            with jax.enable_x64(dtype == "float64"):
                found[name][dtype] = _differences(code, KINDS[name], dtype, options)
    return {
        "settings": {name: getattr(options, name) for name in COUNTS},
        "differences": found,
        "provenance": {
            "precision": " and ".join(DTYPES),
            "authors_code": {"address": ADDRESS, "commit": commit(options.authors_code)},
            "torch": version("torch"),
        },
    }


def authors_code(folder: Path) -> SimpleNamespace:
    """The authors' modules, imported from their folder, with the arguments that they share."""
    if missing := [name for name in FILES if not (folder / name).is_file()]:
        raise UserError(
            f"--authors_code is {folder}, which has no {missing[0]}; give a clone of {ADDRESS}."
        )
    if find_spec("torch") is None:
        raise UserError(
            "The authors' code needs PyTorch, which is not installed; run python -m pip install -e "
            "'.[benchmarks]'."
        )
    sys.path.insert(0, str(folder.resolve()))
    argv, sys.argv = sys.argv, sys.argv[:1]  # which they parse when they are imported
    written, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        with warnings.catch_warnings(action="ignore"):
            shared = importlib.import_module("args").args
            code = {name: importlib.import_module(name) for name in _MODULES}
    except Exception as error:
        raise UserError(
            f"--authors_code is {folder}, which can't be imported ({type(error).__name__}: {error}); "
            f"give a clone of {ADDRESS}."
        ) from error
    finally:
        sys.path.pop(0)
        sys.argv, sys.dont_write_bytecode = argv, written
    return SimpleNamespace(args=shared, **code)


def _differences(code: SimpleNamespace, kind: Kind, dtype: str, options) -> dict[str, list]:
    """Relative differences of the losses, and the largest of all tensors, after each step."""
    run, state = _begin(kind, dtype, options)
    key = jax.random.key(1)
    draws = [_draws(run, key, state, step) for step in range(options.steps)]
    theirs = _theirs(code, kind, run, _tensors(run, state.endpoints), draws)
    found = {"loss": [], "weights": []}
    for step in range(options.steps):
        rows = jnp.arange(run.batch_size)[None] + step * run.batch_size
        given = (run.hyper, key, run.images, run.labels, rows)
        state, metrics = steps.train_call(state, *given, program=run.program, unroll=True)
        loss, weights = next(theirs)
        ours = _tensors(run, state.endpoints)
        found["loss"].append(_relative(metrics["loss"][0] + metrics["penalty"][0], loss))
        parts = [
            _relative(own[name], weights[f"{name}{i or ''}"])
            for i, own in enumerate(ours[j] for j in kind.order)
            for name in own
        ]
        found["weights"].append(max(parts))
    return found


def _relative(ours, theirs) -> float:
    """The norm of the difference in units of theirs."""
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def _begin(kind: Kind, dtype: str, options) -> tuple[Run, ss.TrainState]:
    """A run of the experiments without augmentation or warm-up, and its first state, in that dtype."""
    images, labels = images_and_labels()
    count, precision = options.steps * options.batch_size, _PRECISIONS[dtype]
    split = Split(images[:count], labels[:count])
    config = cifar10.get_config(kind.recipe)
    config.update(batch_size=options.batch_size, augmentation="none")
    config.optimizer.warmup_epochs = 0
    run = make_run(config, Dataset("random", split, split, split, 10))
    network = run.program.model.network.clone(dtype=precision)
    program = dataclasses.replace(
        run.program, model=dataclasses.replace(run.program.model, network=network)
    )
    endpoints, hyper = jax.tree.map(
        lambda x: x.astype(precision), (steps.init_state(run).endpoints, run.hyper)
    )
    run = run._replace(program=program, hyper=hyper)
    optimizer = program.method.optimizer(hyper, program.length)
    return run, ss.TrainState.create(endpoints, optimizer)


def _tensors(run: Run, endpoints) -> list[dict[str, np.ndarray]]:
    """The weights of every endpoint by the authors' names."""
    network, count = run.program.model.network, ss.tree.num_stacked(endpoints)
    # Copies, since the next step gets the memory.
    one = lambda i: {"params": jax.tree.map(lambda x: np.array(x[i]), endpoints)}
    return [to_torch(network, one(i)) for i in range(count)]


class Draws(NamedTuple):
    """What a step of ours draws: the point, of the whole network or by tensor, and the pair."""

    point: np.ndarray | dict[str, np.ndarray]
    pair: list[int]


def _draws(run: Run, key: jax.Array, state: ss.TrainState, step: int) -> Draws:
    """As `make_train_step` and `cosine_penalty` use their keys."""
    subspace, endpoints = run.program.method.subspace, state.endpoints
    n = subspace.num_endpoints
    coords_key, _, pair_key = jax.random.split(jax.random.fold_in(key, step), 3)
    coords = subspace.sample_coords(jax.random.split(coords_key)[1], endpoints)
    if subspace.layer_of is None:
        point = np.asarray(coords, np.float64)
    else:
        spread = jax.tree.map(lambda c, x: jnp.full_like(x[:1], c), coords, endpoints)
        (point,) = _tensors(run, spread)
    pair = jax.random.choice(pair_key, n, (2,), replace=False).tolist() if n > 1 else []
    return Draws(point, pair)


def _theirs(
    code: SimpleNamespace,
    kind: Kind,
    run: Run,
    endpoints: list[dict[str, np.ndarray]],
    draws: list[Draws],
) -> Iterator[tuple[float, dict[str, np.ndarray]]]:
    """The loss of each step by the authors' code, and all weights after it by their names."""
    import torch

    trainer, model, optimizer = _their_training(code, kind, run, endpoints)
    for step, drawn in enumerate(draws):
        rows = slice(step * run.batch_size, (step + 1) * run.batch_size)
        # Compiled as in our step, so that its float32 values are the same.
        images = jax.jit(normalize, static_argnames="name")(
            run.images[rows], name=run.program.model.normalization
        ).transpose(0, 3, 1, 2)
        labels = torch.tensor(np.asarray(run.labels[rows])).long()
        dtype = next(model.parameters()).dtype
        batches = _Batches([(torch.tensor(np.asarray(images), dtype=dtype), labels)])
        _replay(trainer, model, kind, drawn)
        with contextlib.redirect_stdout(io.StringIO()):  # they print the loss
            found = trainer.train(
                [model],
                None,
                SimpleNamespace(train_loader=batches),
                [optimizer],
                torch.nn.CrossEntropyLoss(),
                0,
            )
        loss = found[0] if isinstance(found, tuple) else found
        yield loss, {name: x.detach().numpy() for name, x in model.named_parameters()}


class _Batches(list):
    """What the authors' training functions take for a data loader."""

    @property
    def dataset(self):
        return self[0][1]


def _their_training(code, kind: Kind, run: Run, endpoints: list[dict]):
    """Their training function's module, the network with our weights, and the optimizer."""
    import torch

    network, hyper = run.program.model.network, run.hyper
    vars(code.args).update(
        model="CIFARResNet",
        model_name=f"cifar_resnet_{network.depth}_{network.width}",
        conv_type=kind.conv_type,
        bn_type=kind.bn_type,
        n=len(kind.order),
        layerwise=kind.recipe.startswith("layerwise"),
        lr=float(hyper.learning_rate),
        momentum=float(hyper.momentum),
        wd=float(hyper.weight_decay),
        beta=float(hyper.penalty),
        epochs=run.program.length.num_epochs,
        warmup_length=run.program.length.warmup_epochs,
    )
    model = code.utils.set_gpu(code.utils.get_model())
    given = {
        f"{name}{i or ''}": torch.tensor(tensor)
        for i, j in enumerate(kind.order)
        for name, tensor in endpoints[j].items()
    }
    if given.keys() != (names := dict(model.named_parameters()).keys()):
        raise UserError(
            f"Their network has other weights than ours: {sorted(given.keys() ^ names)}."
        )
    model.to(next(iter(given.values())).dtype).load_state_dict(given, strict=False)
    optimizer = code.utils.get_optimizer(code.args, model)
    with contextlib.redirect_stdout(io.StringIO()):
        code.schedulers.get_policy("cosine_lr")(optimizer, code.args)(0, None)
    return getattr(code.trainers, kind.trainer), model, optimizer


def _replay(trainer: ModuleType, model, kind: Kind, drawn: Draws) -> None:
    """Lets the authors' module draw what ours did, wherever it asks numpy or random."""
    if isinstance(drawn.point, dict):  # they ask for every layer in this order
        layers = [name for name, _ in model.named_modules() if f"{name}.weight" in drawn.point]
        points = iter([drawn.point[f"{name}.weight"].flat[0] for name in layers])
    else:
        points = itertools.repeat(drawn.point)
    trainer.np = SimpleNamespace(
        random=SimpleNamespace(
            uniform=lambda low, high: float(next(points)),
            exponential=lambda scale, size: next(points)[np.array(kind.order)],
        )
    )
    trainer.random = SimpleNamespace(
        sample=lambda among, count: [*map(kind.order.index, drawn.pair)]
    )


def markdown(results: dict) -> str:
    """Differences after the first and the last step as a table."""
    last = results["settings"]["steps"]
    rows = [
        [name, dtype, *(f"{found[what][i]:.0e}" for i in (0, -1) for what in ("loss", "weights"))]
        for name, both in results["differences"].items()
        for dtype, found in both.items()
    ]
    header = ["training", "dtype", "loss, step 1", "weights, step 1"]
    header += [f"loss, step {last}", f"weights, step {last}"]
    return table(header, rows) + "\n"


main = make_main("parity", DESCRIPTION, measure, markdown, COUNTS, OTHERS)

if __name__ == "__main__":
    launch.with_tuned_memory()
    sys.exit(main())
