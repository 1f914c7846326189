"""The export itself: measured, written beside its place, read by a fresh process, moved into place."""

import functools
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from experiments.evaluation import points
from experiments.evaluation.evaluate import to_json
from experiments.evaluation.predict import Networks, mixtures, predict, recalibrated
from experiments.evaluation.predictors import Predictor, measure
from experiments.export import card, formats
from experiments.runs import workdir
from experiments.runs.finished import FinishedRun, reopen
from experiments.system import files, progress
from experiments.system.errors import UserError
from experiments.system.provenance import finished_now, provenance

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
logits = np.asarray(scope["logits"](np.load(images)))
np.savez(results, logits=logits, modules=sorted({name.split(".")[0] for name in sys.modules}))
"""


def export(options: SimpleNamespace) -> Path:
    """Exports a network as the command line says; the folder that it returns is whole or not there."""
    begun = provenance("experiments.export")
    folder = Path(options.workdir).expanduser()
    output = _output(folder, options)
    finished = reopen(folder, options.data_dir)
    _check_format(options, finished.run.program.model.network)
    chosen = points.choose(options.point, finished.run, finished.settings, finished.metrics)
    outside = f"--point {options.point} lies outside of what {options.workdir} trained"
    if not (chosen.inside or options.allow_outside):
        raise UserError(f"{outside}; choose one inside, or pass --allow_outside.")
    if not chosen.inside:
        print(f"warning: {outside}; see its metrics in the card.", file=sys.stderr)
    with files.whole_folder(output) as made:
        network, exported, record = _measured(made, finished, chosen, options)
        _check_record(folder, record)
        own = begun | finished_now()
        record["provenance"] = {"run": finished.metrics["provenance"], "export": own}
        shutil.copy(folder / workdir.CONFIG, made / workdir.CONFIG)
        if source := formats.FORMATS[options.format].source:
            files.write_atomically(made / card.NETWORK, source(exported))
        tolerance = _TOLERANCES[record["network"]["activations"]]
        shape = (_EXAMPLES, *record["data"]["image_shape"])
        noise = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        np.savez(made / card.EXAMPLE, images=noise, logits=_reference(noise, finished, network))
        code = card.loading_code(options.format, 10 * tolerance)
        files.write_atomically(made / card.README, card.page(record, code))
        record["verification"] = _verify(made, finished, network, tolerance)
        record["files"] = [*sorted(os.listdir(made)), card.RECORD]
        files.write_json(made / card.RECORD, record)
    _say(output, record)
    return output


def _output(folder: Path, options: SimpleNamespace) -> Path:
    """Where the export goes, if it may go there."""
    name = re.sub(r"[^\w.,-]", "_", options.point)
    name = f"{name}-{options.format}{'-int8' if options.int8 else ''}"
    output = Path(options.output).expanduser() if options.output else folder / "export" / name
    if not os.path.lexists(output):
        return output
    if not (output / card.RECORD).is_file():
        raise UserError(f"{output} is there and is no export; choose another --output.")
    if not options.overwrite:
        raise UserError(f"{output} is there; choose another --output or pass --overwrite.")
    return output


def _check_format(options: SimpleNamespace, network: nn.Module) -> None:
    """Refuses a format that does not carry the network, or whose packages are not there."""
    name, format_ = options.format, formats.FORMATS[options.format]
    if reason := format_.refusal(network):
        raise UserError(
            f"--format {name} does not carry this network, since {reason}; choose another, such as "
            "stablehlo."
        )
    packages = [*format_.packages, *format_.writers]
    missing = [one for one in packages if not importlib.util.find_spec(one.partition("-")[0])]
    if missing:
        raise UserError(
            f"--format {name} needs {', '.join(missing)}, not installed here; pip install "
            f"{' '.join(missing)}."
        )
    if options.int8 and not format_.keeps_int8:
        kept = [one for one, other in formats.FORMATS.items() if other.keeps_int8]
        raise UserError(
            f"--int8 is not for --format {name}; leave it out or choose {', '.join(kept)}."
        )


def _measured(
    made: Path, finished: FinishedRun, chosen: points.Chosen, options: SimpleNamespace
) -> tuple[Networks, formats.Exported, dict]:
    """The network `[1, ...]` whose file is in the new folder, and what the card says of it."""
    config, run, settings = finished.config, finished.run, finished.settings
    model = run.program.model
    splits = {"test": finished.dataset.test}
    if len(finished.dataset.validation.labels):
        splits["validation"] = finished.dataset.validation
    format_ = formats.FORMATS[options.format]
    metadata = {
        "recipe": config.recipe,
        "point": options.point,
        "network": config.model.name,
        "data": config.dataset,
    }
    params = mixtures(finished.stack, jnp.asarray(chosen.weights, jnp.float32)[None])
    kept = {"float32": _one(params)}
    if options.int8:
        kept["int8"] = formats.quantised(kept["float32"])
        rounded = formats.dequantised(kept["int8"])
        params = jax.tree.map(lambda x, y: jnp.concatenate([x, y[None]]), params, rounded)
    given = {"settings": settings, "wrap": progress.batches}
    networks, recalibration = recalibrated(run, params, **given)
    metrics, sizes = {}, {}
    for i, kind in enumerate(kept):
        network = networks.take([i])
        logits = functools.partial(predict, model, network, **given)
        metrics[kind] = to_json(measure(Predictor(kind, logits), splits, settings.num_bins))
        path = (made if i == len(kept) - 1 else made.parent) / format_.file
        exported = formats.Exported(
            model.network,
            {"params": kept[kind], "batch_stats": _one(network.stats)},
            model.normalization,
            finished.dataset.test.images.shape[1:],
            kind == "int8",
            metadata | {"weights": kind},
        )
        format_.write(path, exported)
        written = (path, *path.rglob("*"))  # Orbax writes a folder
        sizes[kind] = sum(file.stat().st_size for file in written if file.is_file())
    record = card.record(finished, chosen, options, recalibration)
    recorded = points.recorded(chosen, finished.metrics)
    return network, exported, record | {"metrics": metrics, "recorded": recorded, "bytes": sizes}


def _one(stack):
    """The only network of a stack, in NumPy."""
    return jax.tree.map(lambda x: np.asarray(x[0]), stack)


def _check_record(folder: Path, record: dict) -> None:
    """Refuses what is not finite or not what the run found, with other data, weights or code."""
    if any(found["nll"] is None for found in record["metrics"].values()):
        raise UserError(
            "Predictions at this --point are not finite; choose another, or another run."
        )
    here, there = record["metrics"]["float32"]["nll"], (record["recorded"] or {}).get("nll")
    if there is not None and abs(here - there) > _SAME_NLL * (1 + abs(there)):
        raise UserError(
            f"The point has test NLL {here:.4f} here but {there:.4f} in {folder / workdir.METRICS}, so "
            "that the data or weights are not those of the run; name its data with --data_dir."
        )


def _reference(images: np.ndarray, finished: FinishedRun, network: Networks) -> np.ndarray:
    """The logits that the exported network should give, whatever the device rounds to by default."""
    model, settings = finished.run.program.model, finished.settings
    with jax.default_matmul_precision("highest"):
        return np.asarray(predict(model, network, images, settings)[0])


def _verify(made: Path, finished: FinishedRun, network: Networks, tolerance: float) -> dict:
    """Refuses files from which a fresh process gets other logits of test images."""
    test = finished.dataset.test.images
    images = np.asarray(test[np.arange(min(_CHECKED_IMAGES, len(test)))])
    wanted = _reference(images, finished, network)
    found, modules = _in_fresh_process(made, images)
    if ours := modules & {"experiments", "subspace_jax"}:
        raise _mismatch(f"it imported {', '.join(sorted(ours))}")
    same_shape, largest = found.shape == wanted.shape, np.abs(wanted).max()
    difference = np.abs(found - wanted).max() if same_shape else np.inf
    allowed = tolerance * max(largest, 1e-6)
    if not difference <= allowed:
        raise _mismatch(f"its logits differ by {difference:.3g} where {allowed:.3g} is allowed")
    return {
        "num_test_images": len(images),
        "largest_difference": float(difference),
        "allowed_difference": float(allowed),
        "largest_logit": float(largest),
        "imported": sorted(modules & {name.partition("-")[0] for name in formats.PACKAGES}),
    }


def _in_fresh_process(made: Path, images: np.ndarray) -> tuple[np.ndarray, set[str]]:
    """Logits of images by the card's code, and the top-level modules that it imported."""
    # On the CPU: this process may hold all memory of an accelerator.
    changes = {"JAX_PLATFORMS": "cpu", "PYTHONDONTWRITEBYTECODE": "1"}
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONSAFEPATH"} | changes
    given, results = made.with_name("images.npy"), made.with_name("results.npz")
    np.save(given, images)
    command = [sys.executable, "-c", _FRESH_PROCESS, card.code_of(made), given, results]
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


def _say(output: Path, record: dict) -> None:
    for name, found in record["metrics"].items():
        print(
            f"{name}: test accuracy {100 * found['accuracy']:.2f} %, NLL {found['nll']:.4f}, ECE "
            f"{100 * found['ece']:.2f} %, {record['bytes'][name]:,} bytes."
        )
    check = record["verification"]
    print(
        f"Logits of {check['num_test_images']} test images agree in a fresh process (largest difference "
        f"{check['largest_difference']:.2g}; largest logit {check['largest_logit']:.2g})."
    )
    print(f"Exported: {output.absolute()}; start with {card.README}.")
