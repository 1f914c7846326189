"""The model card of an exported network: what it is, how good, how to load it, where it ends."""

import json
from pathlib import Path
from types import SimpleNamespace

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
_METRICS = ("accuracy", "nll", "brier", "ece")
# Data sets by the names that hubs have for them.
_HUB = {
    "cifar10": "uoft-cs/cifar10",
    "cifar100": "uoft-cs/cifar100",
    "imagenet": "ILSVRC/imagenet-1k",
    "tiny_imagenet": "zh-plus/tiny-imagenet",
}
_PAGE = Path(__file__).with_name("card.md").read_text("utf-8")  # to be formatted


def record(
    finished: FinishedRun,
    chosen: Chosen,
    options: SimpleNamespace,
    recalibration: ss.recalibration.Recalibration,
) -> dict:
    """All that is known before anything is measured, as JSON values."""
    config, run, dataset = finished.config, finished.run, finished.dataset
    method, steps = run.program.method, run.program.num_steps
    answer = method.answer
    others = tuple(config.subspace.weights)  # of runs that it started from
    learned = method.subspace.num_endpoints > 1 and method.trains and not others
    mean, std = augment.NORMALIZATIONS[config.normalization]
    sizes = {name: len(getattr(dataset, name).labels) for name in ("train", "validation", "test")}
    found = {
        "format": options.format,
        "license": options.license,
        "int8": options.int8,
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
            "normalization": {"mean": list(mean), "std": list(std)},
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
            "quick": config.get("quick", False),
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
        "It is of a first look with --quick, and no result.": found["training"]["quick"],
        f"It started from the weights of {start}, which were trained on other images or for longer; "
        "neither is in the numbers of its training.": start,
        "The point lies outside of what was trained.": not point["inside"],
        "Networks that were trained apart were averaged; nothing between them was trained.": apart,
        "The point was chosen by its NLL on the validation images, which are not the test images.": (
            point["chosen_by_validation_nll"] is not None
        ),
        "Weights are kept as int8 numbers and computed with in float32: the file is smaller, "
        "predictions are not faster.": found["int8"],
    }
    return [sentence for sentence, holds in sentences.items() if holds]


def loading_code(format_name: str, tolerance: float) -> str:
    """The code of the card, to be run in the exported folder; it defines `logits`."""
    return f"""\
import numpy as np
{FORMATS[format_name].load}


def logits(images):
    return {FORMATS[format_name].call}


example = dict(np.load("{EXAMPLE}"))  # uint8 images and the logits that they should give
found = np.asarray(logits(example["images"]))
difference = np.abs(found - example["logits"]).max()
assert difference <= {tolerance} * np.abs(example["logits"]).max()
print(found.argmax(1))  # the predicted classes"""


def code_of(folder: Path) -> str:
    """The code of a card, as a reader copies it."""
    return (folder / README).read_text("utf-8").split("```python\n")[1].split("```")[0]


def page(card: dict, code: str) -> str:
    """The card as Markdown."""
    about, method, point = card["data"], card["method"], card["point"]
    names, versions = about["class_names"], card["provenance"]["export"]["versions"]
    more = " besides those of the weights that it started from"
    words = {
        "front_matter": _front_matter(card),
        "point_said": f"the {point['name']}" if point["name"] else "a point",
        "coords": ", ".join(f"{x:g}" for x in np.atleast_1d(point["coords"])),
        "weights": ", ".join(f"{x:g}" for x in point["mixing_weights"]),
        "reference": f"; {method['reference']}" if "reference" in method else "",
        "networks": f", which are {method['networks']}," if "networks" in method else "",
        "metrics_said": "\n".join(_row(card, name) for name in card["metrics"]),
        "packages": ", ".join(FORMATS[card["format"]].packages),
        "code": code,
        "shape": ", ".join(map(str, about["image_shape"])),
        "labels": f": {', '.join(names)}" if 0 < len(names) <= 20 else "",
        "limits_said": "\n".join(f"- {sentence}" for sentence in card["limits"]),
        "more": more if card["training"]["starts_from_other_weights"] else "",
        "augmented": "augmented " if card["recalibration"]["augmented"] else "",
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }
    return _PAGE.format(**card, **card["provenance"], **words)


def _front_matter(card: dict) -> str:
    """What model hubs read, a line for each key: YAML, of which JSON is a part."""
    name, split = card["data"]["name"], "test"
    found = card["metrics"]["int8" if card["int8"] else "float32"]
    result = {
        "task": {"type": "image-classification"},
        "dataset": {"type": _HUB.get(name, name), "name": name, "split": split},
        "metrics": [{"type": one, "value": found[one]} for one in _METRICS],
    }
    front = {
        "license": card["license"],
        "pipeline_tag": "image-classification",
        "tags": [
            "neural-network-subspace",
            card["method"]["recipe"],
            *FORMATS[card["format"]].packages,
        ],
        **({"datasets": [_HUB[name]]} if name in _HUB else {}),
        "metrics": ["accuracy"],
        "model-index": [{"name": f"{name}-{card['method']['recipe']}", "results": [result]}],
    }
    return "\n".join(f"{key}: {json.dumps(value)}" for key, value in front.items())


def _row(card: dict, kind: str) -> str:
    """Of the table of metrics, for float32 or int8 weights."""
    found = card["metrics"][kind]
    kept = "" if kind == ("int8" if card["int8"] else "float32") else " (not in this folder)"
    cells = [kind + kept, f"{100 * found['accuracy']:.2f}"]
    cells += [f"{found['nll']:.4f}", f"{found['brier']:.4f}", f"{100 * found['ece']:.2f}"]
    if scaled := found.get("scaled"):
        cells += [f"{found['temperature']:.3f}", f"{scaled['nll']:.4f}"]
        cells += [f"{100 * scaled['ece']:.2f}"]
    else:
        cells += [""] * 3
    cells.append(f"{card['bytes'][kind]:,}")
    return f"| {' | '.join(cells)} |"
