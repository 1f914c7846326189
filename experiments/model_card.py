"""The model card of an exported network: what it is, how good, how to load it, where it ends."""

from pathlib import Path

import jax
import numpy as np

from experiments import data, images, wording
from experiments.finished_run import FinishedRun
from experiments.formats import FORMATS
from experiments.points import Chosen, method_said

EXAMPLE, NETWORK, README, RECORD = "example.npz", "network.py", "README.md", "model_card.json"
_REFERENCE = "Wortsman et al. 2021, Learning Neural Network Subspaces"
_AVERAGES = {
    "none": "",
    "ema": "exponential moving averages of the networks over training",
    "swa": "means of the networks visited in training (SWA)",
    "swag": "the mean of the networks visited in training and draws from the Gaussian around it (SWAG)",
    "snapshots": "the networks visited in training, whose mean is the midpoint (a uniform soup)",
}


def record(
    finished: FinishedRun, chosen: Chosen, format_name: str, int8: bool, network, moments: dict
) -> dict:
    """All that is known before anything is measured, as JSON values.

    Args:
      finished: the run.
      chosen: the point.
      format_name: a name in `experiments.formats.FORMATS`.
      int8: whether its weights are.
      network: the Flax module that was measured.
      moments: what evaluation says of its recalibration.
    """
    config, run = finished.config, finished.run
    method, dataset = run.program.method, finished.dataset
    own = finished.metrics["provenance"]
    steps = run.program.num_steps
    sizes = {
        "train": len(dataset.train.labels),
        "validation": len(dataset.validation.labels),
        "test": len(dataset.test.labels),
    }
    one = jax.tree.map(lambda x: x.shape[1:], finished.stack)
    shapes = jax.tree.leaves(one, is_leaf=lambda x: isinstance(x, tuple))
    kept = _AVERAGES[method.average]
    others = tuple(config.subspace.weights)  # of runs that it started from
    starts = bool(others or config.init_from)
    learned = method.subspace.num_endpoints > 1 and method.trains and not others
    what = {
        "format": format_name,
        "files": [FORMATS[format_name].file, NETWORK, EXAMPLE, README, RECORD, "config.json"],
        "int8": int8,
        "network": {
            "name": config.model.name,
            "num_parameters": sum(int(np.prod(shape)) for shape in shapes),
            "activations": np.dtype(network.dtype).name,
        },
        "method": {
            "recipe": config.recipe,
            "kind": config.kind,
            "spans": method_said(method),
            "num_networks": len(chosen.weights),
            **({"networks": kept} if kept else {}),
            **({"reference": _REFERENCE} if learned else {}),
        },
        "point": {
            "name": chosen.name,
            "coords": np.asarray(chosen.coords, np.float64).round(7).tolist(),
            "mixing_weights": np.asarray(chosen.weights, np.float64).round(7).tolist(),
            "inside": chosen.inside,
            "chosen_by_validation_nll": chosen.validation_nll,
        },
        "data": {
            "name": config.dataset,
            "sha256": data.fingerprint(config.data_dir),  # of an .npz file
            "sizes": sizes,
            "image_shape": list(dataset.test.images.shape[1:]),
            "num_classes": dataset.num_classes,
            "class_names": list(data.class_names(config.dataset, config.data_dir)),
            "normalization": dict(
                zip(("mean", "std"), images.NORMALIZATIONS[config.normalization], strict=True)
            ),
            "augmentation": config.augmentation,
            "label_noise": config.label_noise.to_dict(),
        },
        "recalibration": moments,
        "training": {
            "num_epochs": run.program.length.num_epochs,
            "num_steps": steps,
            "batch_size": run.batch_size,
            "gradient_passes": steps * run.batch_size * method.gradients_per_step,
            "seconds": own["training_seconds"],
            "starts_from_other_weights": starts,
            "init_from": config.init_from,
            "init_head": config.init_head,
            "seed": config.seed,
        },
    }
    return what | {"limits": _limits(what, finished, chosen)}


def _limits(what: dict, finished: FinishedRun, chosen: Chosen) -> list[str]:
    noise = what["data"]["label_noise"]
    given = noise["mode"] == data.FILE_MODE
    labels = "labels given by people" if given else wording.labels_said(noise["rate"])
    found = [
        f"It was trained on {what['data']['sizes']['train']:,} images of {what['data']['name']} with "
        f"{labels}, and measured on test images of the same source; nothing is known of others.",
        "Its confidence is as training left it; divide its logits by the temperature above, if there is "
        "one, to calibrate it.",
        "Its batch-norm statistics were measured for these very weights; after any change of them "
        "measure them anew.",
        f"The numbers are of one run with one seed ({what['training']['seed']}).",
    ]
    if finished.config.init_from:
        found.append(
            f"It started from the weights of {finished.config.init_from}, which were trained on other "
            "images or for longer; neither is in the numbers of its training."
        )
    if not chosen.inside:
        found.append("The point lies outside of what was trained.")
    if finished.config.kind == "independent" and np.count_nonzero(chosen.weights) > 1:
        found.append(
            "Networks that were trained apart were averaged; nothing between them was trained."
        )
    if chosen.validation_nll is not None:
        found.append(
            "The point was chosen on the validation images, which are not the test images."
        )
    if what["int8"]:
        found.append(
            "Weights are kept as int8 numbers and computed with in float32: the file is smaller, "
            "predictions are not faster."
        )
    return found


def loading_code(format_name: str, tolerance: float) -> str:
    """The code of the card, to be run in the exported folder; it defines `weights` and `logits`."""
    return "\n".join(
        [
            *FORMATS[format_name].load,
            f'example = np.load("{EXAMPLE}")  # uint8 images and the logits that they should give',
            'found = np.asarray(logits(weights, example["images"]))',
            'difference = np.abs(found - example["logits"]).max()',
            f'assert difference <= {tolerance} * np.abs(example["logits"]).max()',
        ]
    )


def page(card: dict, code: str) -> str:
    """The card as Markdown."""
    format_, sizes = FORMATS[card["format"]], card["data"]["sizes"]
    height, width, channels = card["data"]["image_shape"]
    moments = card["data"]["normalization"]
    names = card["data"]["class_names"]
    labels = f": {', '.join(names)}" if 0 < len(names) <= 20 else ""
    run, export = card["provenance"]["run"], card["provenance"]["export"]
    versions = ", ".join(f"{name} {version}" for name, version in export["versions"].items())
    training = card["training"]
    more = (
        " besides those of the weights that it started from"
        if training["starts_from_other_weights"]
        else ""
    )
    return f"""# {card["network"]["name"]} on {card["data"]["name"]}: {_title(card)}

{_what(card)}

## How good it is

Measured when it was exported, on {sizes["test"]:,} test images, with the weights that the file holds:

{_metrics(card)}

{_calibration(card)}

## How to load it

In this folder, with {", ".join(format_.packages)} alone:

```python
{code}
```

Before this folder was kept, a fresh process ran this code, without the project that trained the \
network, and its logits of test images were compared with those that were measured. `{NETWORK}` is the \
network; `{RECORD}` has every number of this card, and more.

- **Input**: uint8 images `[B, {height}, {width}, {channels}]`, from 0 to 255. `logits` divides \
by 255, subtracts the mean {list(moments["mean"])} and divides by the standard deviation \
{list(moments["std"])} of a channel.
- **Output**: logits `[B, {card["data"]["num_classes"]}]`, float32, of classes in the order of their \
labels{labels}.

## Limits

{chr(10).join(f"- {sentence}" for sentence in card["limits"])}

## Where it comes from

- Training: {training["num_epochs"]} epochs, {training["num_steps"]:,} steps of \
{training["batch_size"]} images{more}; {training["gradient_passes"]:,} gradient passes over images, \
{training["seconds"]:.0f} s on {run["device"]}; seed {training["seed"]}. {sizes["validation"]:,} \
training images were held out.
- Batch-norm statistics: of {card["recalibration"]["num_examples"]:,} \
{"augmented " if card["recalibration"]["augmented"] else ""}training images, pooled over batches of \
{card["recalibration"]["batch_size"]}.
- The run: `{run["command"]}`, commit {run["commit"]}, {run["date"]}.
- The export: `{export["command"]}`, commit {export["commit"]}, {export["date"]}; {versions}.
"""


def _title(card: dict) -> str:
    method, point = card["method"], card["point"]
    if method["num_networks"] == 1:
        return f"recipe {method['recipe']}"
    return f"{point['name'] or 'a point'} of a {method['spans']}"


def _what(card: dict) -> str:
    method, point = card["method"], card["point"]
    said = [f"One ordinary network with {card['network']['num_parameters']:,} parameters."]
    if method["num_networks"] == 1:
        said.append(f"It was trained by the recipe `{method['recipe']}`.")
    else:
        coords = point["coords"] if isinstance(point["coords"], list) else [point["coords"]]
        weights = ", ".join(f"{x:g}" for x in point["mixing_weights"])
        reference = f"; {method['reference']}" if "reference" in method else ""
        said.append(
            f"It is the {point['name'] or 'point'} ({', '.join(f'{x:g}' for x in coords)}) of a "
            f"{method['spans']} (recipe `{method['recipe']}`{reference}): {method['num_networks']} "
            f"networks mixed with the weights {weights}."
        )
    if "networks" in method:
        said.append(f"What was evaluated are {method['networks']}.")
    if point["chosen_by_validation_nll"] is not None:
        said.append(
            f"It has the lowest validation NLL, {point['chosen_by_validation_nll']:.4f}, of the points "
            "that the run evaluated."
        )
    return " ".join(said)


def _metrics(card: dict) -> str:
    lines = [
        "| Weights | Accuracy [%] | NLL [nats] | Brier | ECE [%] | File [bytes] |",
        "|:--|--:|--:|--:|--:|--:|",
    ]
    for name, found in card["metrics"].items():
        kept = "" if name == ("int8" if card["int8"] else "float32") else " (not in this folder)"
        numbers = [
            _number(100 * found["accuracy"], 2),
            *(_number(found[metric], 4) for metric in ("nll", "brier")),
            _number(found["ece"], 2, 100),
        ]
        lines.append(f"| {name}{kept} | {' | '.join(numbers)} | {card['bytes'][name]:,} |")
    return "\n".join(lines)


def _calibration(card: dict) -> str:
    bins = next(iter(card["metrics"].values()))["num_bins"]
    said = [f"ECE is that of {bins} bins of equal width."]
    for name, found in card["metrics"].items():
        if "temperature" in found:
            scaled = found["scaled"]
            said.append(
                f"With logits divided by {_number(found['temperature'], 3)}, fitted on "
                f"{card['data']['sizes']['validation']:,} validation images, {name} weights have NLL "
                f"{_number(scaled['nll'], 4)} and ECE {_number(scaled['ece'], 2, 100)} %."
            )
    if recorded := card["recorded"]:
        said.append(
            f"The run's own report has accuracy {100 * recorded['accuracy']:.2f} % and NLL "
            f"{_number(recorded['nll'], 4)} at this point."
        )
    return "\n".join(said)


def _number(value: float | None, decimals: int, scale: float = 1) -> str:
    return "not finite" if value is None else f"{scale * value:.{decimals}f}"


def code_of(folder: Path) -> str:
    """The code of a card, as a reader copies it."""
    return (folder / README).read_text("utf-8").split("```python\n")[1].split("```")[0]
