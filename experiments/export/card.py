"""The model card of an exported network: what it is, how good, how to load it, where it ends."""

from pathlib import Path

import jax
import numpy as np

import subspace_jax as ss
from experiments.data import augment, sets
from experiments.data.labels import FILE_MODE
from experiments.evaluation.points import Chosen
from experiments.export.formats import FORMATS
from experiments.results import wording
from experiments.runs.finished import FinishedRun

EXAMPLE, NETWORK, README, RECORD = "example.npz", "network.py", "README.md", "model_card.json"
_REFERENCE = "Wortsman et al. 2021, Learning Neural Network Subspaces"
_PAGE = """\
# {network[name]} on {data[name]}: {title}

{what}

## How good it is

Measured when it was exported, on {data[sizes][test]:,} test images, with the weights that the \
file holds:

| Weights | Accuracy [%] | NLL [nats] | Brier | ECE [%] | File [bytes] |
|:--|--:|--:|--:|--:|--:|
{metrics_said}

{calibration}

## How to load it

In this folder, with {packages} alone:

```python
{code}
```

Before this folder was kept, a fresh process ran this code, without the project that trained the \
network, and its logits of test images were compared with those that were measured. `network.py` is the \
network; `model_card.json` has every number of this card, and more.

- **Input**: uint8 images `[B, {shape}]`, from 0 to 255. `logits` divides by 255, subtracts the mean \
{mean} and divides by the standard deviation {std} of a channel.
- **Output**: logits `[B, {data[num_classes]}]`, float32, of classes in the order of their \
labels{labels}.

## Limits

{limits_said}

## Where it comes from

- Training: {training[num_epochs]} epochs, {training[num_steps]:,} steps of {training[batch_size]} \
images{more}; {training[gradient_passes]:,} gradient passes over images, {training[seconds]:.0f} s on \
{run[device]}; seed {training[seed]}. {data[sizes][validation]:,} training images were held out.
- Batch-norm statistics: of {recalibration[num_examples]:,} {augmented}training images, pooled over \
batches of {recalibration[batch_size]}.
- The run: `{run[command]}`, commit {run[commit]}, {run[date]}.
- The export: `{export[command]}`, commit {export[commit]}, {export[date]}; {versions}.
"""


def record(
    finished: FinishedRun,
    chosen: Chosen,
    format_name: str,
    int8: bool,
    recalibration: ss.recalibration.Recalibration,
) -> dict:
    """All that is known before anything is measured, as JSON values.

    Args:
      finished: the run.
      chosen: the point.
      format_name: a name in `experiments.export.formats.FORMATS`.
      int8: whether its weights are.
      recalibration: of the point.
    """
    config, run, dataset = finished.config, finished.run, finished.dataset
    method, steps = run.program.method, run.program.num_steps
    answer = method.answer
    others = tuple(config.subspace.weights)  # of runs that it started from
    learned = method.subspace.num_endpoints > 1 and method.trains and not others
    mean, std = augment.NORMALIZATIONS[config.normalization]
    sizes = {name: len(getattr(dataset, name).labels) for name in ("train", "validation", "test")}
    found = {
        "format": format_name,
        "files": [FORMATS[format_name].file, NETWORK, EXAMPLE, README, RECORD, "config.json"],
        "int8": int8,
        "network": {
            "name": config.model.name,
            "num_parameters": sum(x[0].size for x in jax.tree.leaves(finished.stack)),
            "activations": np.dtype(run.program.model.network.dtype).name,
        },
        "method": {
            "recipe": config.recipe,
            "kind": config.kind,
            "spans": answer.said,
            "num_networks": len(chosen.weights),
            **({"networks": answer.networks} if answer.networks else {}),
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
            "sha256": sets.fingerprint(config.data_dir),  # of an .npz file
            "sizes": sizes,
            "image_shape": list(dataset.test.images.shape[1:]),
            "num_classes": dataset.num_classes,
            "class_names": list(sets.class_names(config.dataset, config.data_dir)),
            "normalization": {"mean": mean, "std": std},
            "augmentation": config.augmentation,
            "label_noise": config.label_noise.to_dict(),
        },
        "recalibration": {
            "num_examples": recalibration.num_examples,
            "batch_size": recalibration.batch_size,
            "augmented": finished.settings.recalibration_augment,
        },
        "training": {
            "num_epochs": run.program.length.num_epochs,
            "num_steps": steps,
            "batch_size": run.batch_size,
            "gradient_passes": steps * run.batch_size * method.gradients_per_step,
            "seconds": finished.metrics["provenance"]["training_seconds"],
            "starts_from_other_weights": bool(others or config.init_from),
            "init_from": config.init_from,
            "init_head": config.init_head,
            "seed": config.seed,
        },
    }
    return found | {"limits": _limits(found)}


def _limits(found: dict) -> list[str]:
    about, start, point = found["data"], found["training"]["init_from"], found["point"]
    noise = about["label_noise"]
    given = noise["mode"] == FILE_MODE
    labels = "labels given by people" if given else wording.labels_said(noise["rate"])
    apart = (
        found["method"]["kind"] == "independent" and np.count_nonzero(point["mixing_weights"]) > 1
    )
    sentences = {
        f"It was trained on {about['sizes']['train']:,} images of {about['name']} with {labels}, and "
        "measured on test images of the same source; nothing is known of others.": True,
        "Its confidence is as training left it; divide its logits by the temperature above, if there is "
        "one, to calibrate it.": True,
        "Its batch-norm statistics were measured for these very weights; after any change of them "
        "measure them anew.": True,
        f"The numbers are of one run with one seed ({found['training']['seed']}).": True,
        f"It started from the weights of {start}, which were trained on other images or for longer; "
        "neither is in the numbers of its training.": start,
        "The point lies outside of what was trained.": not point["inside"],
        "Networks that were trained apart were averaged; nothing between them was trained.": apart,
        "The point was chosen on the validation images, which are not the test images.": (
            point["chosen_by_validation_nll"] is not None
        ),
        "Weights are kept as int8 numbers and computed with in float32: the file is smaller, "
        "predictions are not faster.": found["int8"],
    }
    return [sentence for sentence, holds in sentences.items() if holds]


def loading_code(format_name: str, tolerance: float) -> str:
    """The code of the card, to be run in the exported folder; it defines `weights` and `logits`."""
    return f"""\
{FORMATS[format_name].load}
example = np.load("{EXAMPLE}")  # uint8 images and the logits that they should give
found = np.asarray(logits(weights, example["images"]))
difference = np.abs(found - example["logits"]).max()
assert difference <= {tolerance} * np.abs(example["logits"]).max()
print(found.argmax(1))  # the predicted classes"""


def code_of(folder: Path) -> str:
    """The code of a card, as a reader copies it."""
    return (folder / README).read_text("utf-8").split("```python\n")[1].split("```")[0]


def page(card: dict, code: str) -> str:
    """The card as Markdown."""
    about, method, point = card["data"], card["method"], card["point"]
    names, moments = about["class_names"], about["normalization"]
    versions = card["provenance"]["export"]["versions"]
    more = " besides those of the weights that it started from"
    one = method["num_networks"] == 1
    title = f"{point['name'] or 'a point'} of a {method['spans']}"
    words = {
        "title": f"recipe {method['recipe']}" if one else title,
        "what": _what(card, one),
        "metrics_said": "\n".join(_row(card, name) for name in card["metrics"]),
        "calibration": _calibration(card),
        "packages": ", ".join(FORMATS[card["format"]].packages),
        "code": code,
        "shape": ", ".join(map(str, about["image_shape"])),
        "mean": list(moments["mean"]),
        "std": list(moments["std"]),
        "labels": f": {', '.join(names)}" if 0 < len(names) <= 20 else "",
        "limits_said": "\n".join(f"- {sentence}" for sentence in card["limits"]),
        "more": more if card["training"]["starts_from_other_weights"] else "",
        "augmented": "augmented " if card["recalibration"]["augmented"] else "",
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }
    return _PAGE.format(**card, **card["provenance"], **words)


def _what(card: dict, one: bool) -> str:
    method, point = card["method"], card["point"]
    said = [f"One ordinary network with {card['network']['num_parameters']:,} parameters."]
    if one:
        said.append(f"It was trained by the recipe `{method['recipe']}`.")
    else:
        coords = ", ".join(f"{x:g}" for x in np.atleast_1d(point["coords"]))
        weights = ", ".join(f"{x:g}" for x in point["mixing_weights"])
        reference = f"; {method['reference']}" if "reference" in method else ""
        said.append(
            f"It is the {point['name'] or 'point'} ({coords}) of a {method['spans']} (recipe "
            f"`{method['recipe']}`{reference}): {method['num_networks']} networks mixed with the "
            f"weights {weights}."
        )
    if "networks" in method:
        said.append(f"What was evaluated are {method['networks']}.")
    if (nll := point["chosen_by_validation_nll"]) is not None:
        said.append(
            f"It has the lowest validation NLL, {nll:.4f}, of the points that the run evaluated."
        )
    return " ".join(said)


def _row(card: dict, name: str) -> str:
    found = card["metrics"][name]
    kept = "" if name == ("int8" if card["int8"] else "float32") else " (not in this folder)"
    numbers = [
        _number(found["accuracy"], 2, 100),
        *(_number(found[metric], 4) for metric in ("nll", "brier")),
        _number(found["ece"], 2, 100),
    ]
    return f"| {name}{kept} | {' | '.join(numbers)} | {card['bytes'][name]:,} |"


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
