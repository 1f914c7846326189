"""Exports one network of a finished run as an ordinary checkpoint, with a model card.

    python -m experiments.export runs/line --point midpoint --format orbax

docs/export.md has what is written and how to load it.
"""

import argparse
import dataclasses
import functools
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from experiments import cli, compiler, files, formats, model_card, points, workdir
from experiments.errors import UserError
from experiments.evaluate import NOTHING_SHIFTED, to_json
from experiments.finished_run import FinishedRun, reopen
from experiments.places import Evaluation
from experiments.predict import Networks, mixtures, predict, recalibrated
from experiments.provenance import finished_now, provenance
from experiments.quantise import dequantised, quantised
from experiments.train import Model

_DESCRIPTION = """\
Export one network of a finished run as an ordinary checkpoint with a model card.

The batch-norm statistics of the point are measured anew on training images, as evaluation does, and
its test metrics too. What is written is read by a fresh process without this project, and its logits
are compared; on a mismatch nothing is kept."""
_EPILOG = """\
points:
  midpoint             the one to deploy, and the default; of a single network, that network
  0.3                  of a line or curve: from 0, its first endpoint, to 1, its last
  0.2,0.3,0.5          of a simplex: a weight for each endpoint; 1/3,1/3,1/3 works too
  best                 the evaluated point of lowest validation NLL
  endpoint_0           any other point that has a name in the run's report
Write --point=-0.1,0.6,0.5 with "=" if the first number is negative (see --allow_outside).

examples:
  python -m experiments.export runs/line
  python -m experiments.export runs/line --point best --format safetensors --output line-best
  python -m experiments.export runs/simplex --point 0.2,0.3,0.5 --format npz --int8
"""
_CHECKED_IMAGES = 16  # of the test split, on which logits are compared
_EXAMPLES = 4  # images of noise that are exported with their logits
# Largest difference of logits that is let pass, as a share of the largest logit: by the dtype of
# activations, of which bfloat16 has 8 bits. The card's code, for any device, allows ten times that.
_TOLERANCES = {"float32": 1e-3, "bfloat16": 3e-2}
# How far the NLL of a point may be from the run's own record of it: devices differ by less.
_SAME_NLL = 0.01

_FRESH_PROCESS = """
import sys
import numpy as np

code, images, results = sys.argv[1:]
scope = {}
exec(code, scope)
logits = np.asarray(scope["logits"](scope["weights"], np.load(images)))
np.savez(results, logits=logits, modules=sorted({name.split(".")[0] for name in sys.modules}))
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.export",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("workdir", metavar="WORKDIR", help="folder of a finished run")
    parser.add_argument("--point", default="midpoint", help="which network; see below")
    parser.add_argument("--format", default="orbax", choices=list(formats.FORMATS))
    parser.add_argument(
        "--output", default="", help="folder to make; default: WORKDIR/export/POINT-FORMAT"
    )
    parser.add_argument("--int8", action="store_true", help="keep kernels as int8 numbers")
    parser.add_argument(
        "--allow_outside", action="store_true", help="allow points outside of what was trained"
    )
    parser.add_argument("--data_dir", default="", help="where the run's data are, if they moved")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace an export that is in the way"
    )
    options = parser.parse_args(argv)
    compiler.configure()
    # As Ctrl-C, so that nothing is left behind.
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return cli.exit_code(functools.partial(export, options))
    finally:
        signal.signal(signal.SIGTERM, previous)


def export(options: SimpleNamespace) -> Path:
    """Exports a network; the folder is whole or not there.

    Args:
      options: of the command line.

    Returns:
      The folder.

    Raises:
      UserError: a run, point or folder that can't be had, or files that give other logits.
    """
    begun = provenance("experiments.export")
    folder = Path(options.workdir).expanduser()
    output = _output(folder, options)
    finished = reopen(folder, options.data_dir)
    chosen = points.choose(
        options.point,
        finished.run,
        finished.settings,
        finished.metrics,
        tuple(map(tuple, finished.config.subspace.simplexes)),
    )
    _check_inside(options, chosen)
    model = _exported_model(finished, options.format)
    # Beside the output, so that it can be moved there as a whole.
    beside = next(parent for parent in output.absolute().parents if parent.exists())
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=beside) as scratch:
        made = Path(scratch) / output.name
        made.mkdir()
        networks, card = _measured(finished, chosen, options, model)
        _check_record(folder, card)
        card["provenance"] = {
            "run": finished.metrics["provenance"],
            "export": begun | finished_now(),
        }
        shutil.copy(folder / workdir.CONFIG, made / workdir.CONFIG)
        _write(made, finished, networks, card, options, model)
        card["verification"] = _verify(made, finished, networks, model)
        files.write_json(made / model_card.RECORD, card)
        output.parent.mkdir(parents=True, exist_ok=True)
        _put(made, output)
    _say(output, card)
    return output


def _output(folder: Path, options: SimpleNamespace) -> Path:
    """Where the export goes, if it may go there."""
    name = re.sub(r"[^\w.,-]", "_", options.point)
    name = f"{name}-{options.format}{'-int8' if options.int8 else ''}"
    output = Path(options.output).expanduser() if options.output else folder / "export" / name
    if not os.path.lexists(output):
        return output
    if not (output / model_card.RECORD).is_file():
        raise UserError(f"{output} is there and is no export; choose another --output.")
    if not options.overwrite:
        raise UserError(f"{output} is there; choose another --output or pass --overwrite.")
    return output


def _check_inside(options: SimpleNamespace, chosen: points.Chosen) -> None:
    if chosen.inside:
        return
    outside = f"--point {options.point} lies outside of what {options.workdir} trained"
    if not options.allow_outside:
        raise UserError(f"{outside}; choose one inside, or pass --allow_outside.")
    print(f"warning: {outside}; see its metrics in the card.", file=sys.stderr)


def _exported_model(finished: FinishedRun, format_name: str) -> Model:
    """The model with the dtype of activations that the exported code has: NumPy has no bfloat16."""
    model = finished.run.program.model
    if format_name == "orbax":
        return model
    return dataclasses.replace(model, network=model.network.clone(dtype=jnp.float32))


def _measured(
    finished: FinishedRun, chosen: points.Chosen, options: SimpleNamespace, model: Model
) -> tuple[Networks, dict]:
    """The network, and after it the one of int8 weights if that is wanted; and what the card says."""
    run, settings = finished.run, finished.settings
    params = mixtures(finished.stack, jnp.asarray(chosen.weights, jnp.float32)[None])
    if options.int8:
        rounded = dequantised(quantised(_one(params, 0)))
        params = jax.tree.map(lambda x, y: jnp.concatenate([x, y[None]]), params, rounded)
    networks, recalibration = recalibrated(run, params, settings, _with_bar)
    splits = {"test": finished.dataset.test}
    if len(finished.dataset.validation.labels):
        splits["validation"] = finished.dataset.validation
    logits = {
        name: predict(model, networks, split.images, settings, _with_bar)
        for name, split in splits.items()
    }
    work = Evaluation(run, splits, settings, _with_bar, NOTHING_SHIFTED, ())
    moments = {
        "num_examples": recalibration.num_examples,
        "batch_size": recalibration.batch_size,
        "augmented": settings.recalibration_augment,
    }
    card = model_card.record(finished, chosen, options.format, options.int8, model.network, moments)
    card["metrics"] = {
        name: to_json(
            work.place({key: jax.nn.log_softmax(x[i]) for key, x in logits.items()}, passes=1)
        )
        for i, name in enumerate(["float32", "int8"][: 1 + options.int8])
    }
    card["recorded"] = points.recorded(chosen, finished.metrics)
    return networks, card


def _with_bar(batches: Iterable, what: str) -> Iterator:
    return iter(tqdm.tqdm(batches, unit="batch", desc=what, delay=1, mininterval=0.5))


def _one(tree, i: int):
    """One network of a stack, in NumPy."""
    return jax.tree.map(lambda x: np.asarray(x[i]), tree)


def _check_record(folder: Path, card: dict) -> None:
    """Refuses what the run itself did not find: data, weights or code are others than its own."""
    if card["recorded"] is None:
        return
    here, there = card["metrics"]["float32"]["nll"], card["recorded"]["nll"]
    if here is None or there is None:
        return
    if abs(here - there) > _SAME_NLL * (1 + abs(there)):
        raise UserError(
            f"The point has test NLL {here:.4f} here but {there:.4f} in {folder / workdir.METRICS}, so "
            "that the data or weights are not those of the run; name its data with --data_dir."
        )


def _write(made, finished, networks, card, options, model) -> None:
    """All files of the folder but the record, whose last entry is the verification."""
    format_ = formats.FORMATS[options.format]
    metadata = {
        "recipe": finished.config.recipe,
        "point": options.point,
        "network": finished.config.model.name,
        "data": card["data"]["name"],
        "weights": "int8" if options.int8 else "float32",
    }
    whole = [_one(networks, i) for i in range(1 + options.int8)]
    variables = [{"params": x.params, "batch_stats": x.stats} for x in whole]
    card["bytes"] = {}
    if options.int8:
        variables[1]["params"] = quantised(whole[0].params)
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / format_.file
            format_.write(path, variables[0], metadata | {"weights": "float32"})
            card["bytes"]["float32"] = formats.num_bytes(path)
    format_.write(made / format_.file, variables[-1], metadata)
    card["bytes"]["int8" if options.int8 else "float32"] = formats.num_bytes(made / format_.file)
    source = format_.source(model.network, model.normalization, options.int8)
    files.write_atomically(made / model_card.NETWORK, source)
    shape = (_EXAMPLES, *card["data"]["image_shape"])
    noise = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    logits = _reference(noise, finished, networks, model)
    np.savez(made / model_card.EXAMPLE, images=noise, logits=logits)
    code = model_card.loading_code(options.format, 10 * _tolerance(model))
    files.write_atomically(made / model_card.README, model_card.page(card, code))


def _tolerance(model: Model) -> float:
    return _TOLERANCES[np.dtype(model.network.dtype).name]


def _reference(images: np.ndarray, finished, networks: Networks, model: Model) -> np.ndarray:
    """The logits that the exported network should give, whatever the device rounds to by default."""
    last = networks.take([-1])
    with jax.default_matmul_precision("highest"):
        return np.asarray(predict(model, last, images, finished.settings)[0])


def _verify(made: Path, finished, networks, model) -> dict:
    """Runs the card's code in a fresh process, and compares logits of test images.

    Raises:
      UserError: it fails, imports this project, or gives other logits.
    """
    test = finished.dataset.test.images
    images = np.asarray(test[np.arange(min(_CHECKED_IMAGES, len(test)))])
    wanted = _reference(images, finished, networks, model)
    found, modules = _in_fresh_process(made, images)
    sentence = None
    if ours := modules & {"experiments", "subspace_jax"}:
        sentence = f"it imported {', '.join(sorted(ours))}"
    elif found.shape != wanted.shape:
        sentence = f"its logits have shape {list(found.shape)} and not {list(wanted.shape)}"
    else:
        difference, largest = np.abs(found - wanted).max(), np.abs(wanted).max()
        allowed = _tolerance(model) * max(largest, 1e-6)
        if not difference <= allowed:
            sentence = f"its logits differ by {difference:.3g} where {allowed:.3g} is allowed"
    if sentence:
        raise _mismatch(sentence)
    return {
        "num_test_images": len(images),
        "largest_difference": float(difference),
        "allowed_difference": float(allowed),
        "largest_logit": float(largest),
        "imported": sorted(modules & {"flax", "jax", "numpy", "orbax", "safetensors"}),
    }


def _in_fresh_process(made: Path, images: np.ndarray) -> tuple[np.ndarray, set[str]]:
    """Logits of images by the card's code, and the top-level modules that it imported."""
    # On the CPU: this process may hold all memory of an accelerator.
    changes = {"JAX_PLATFORMS": "cpu", "PYTHONDONTWRITEBYTECODE": "1"}
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONSAFEPATH"} | changes
    with tempfile.TemporaryDirectory() as scratch:
        given, results = Path(scratch) / "images.npy", Path(scratch) / "results.npz"
        np.save(given, images)
        code = model_card.code_of(made)
        command = [sys.executable, "-c", _FRESH_PROCESS, code, given, results]
        done = subprocess.run(
            command, cwd=made, env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            raise _mismatch(f"it failed: {lines[-1]}")
        with np.load(results) as file:
            return file["logits"], set(file["modules"].tolist())


def _mismatch(reason: str) -> UserError:
    return UserError(
        f"A fresh process did not get the network's logits from the exported files ({reason}), so they "
        "were deleted; try another --format, or report this with the command and its versions."
    )


def _put(made: Path, output: Path) -> None:
    """Moves a whole folder into its place; an older export goes when the new one is there."""
    if not os.path.lexists(output):
        os.rename(made, output)
        return
    old = output.with_name(f".{output.name}.{secrets.token_hex(4)}")
    os.rename(output, old)
    try:
        os.rename(made, output)
    except BaseException:  # a signal too: the older one stays
        os.rename(old, output)
        raise
    workdir.delete(old)


def _say(output: Path, card: dict) -> None:
    for name, found in card["metrics"].items():
        numbers = {key: np.nan if found[key] is None else found[key] for key in ("nll", "ece")}
        print(
            f"{name}: test accuracy {100 * found['accuracy']:.2f} %, NLL {numbers['nll']:.4f}, ECE "
            f"{numbers['ece']:.4f}, {card['bytes'][name]:,} bytes."
        )
    check = card["verification"]
    print(
        f"Logits of {check['num_test_images']} test images agree in a fresh process (largest difference "
        f"{check['largest_difference']:.2g}; largest logit {check['largest_logit']:.2g})."
    )
    print(f"Exported: {output.absolute()}; start with {model_card.README}.")


if __name__ == "__main__":
    sys.exit(main())
