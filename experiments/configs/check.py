"""What each value of a config may be: `check` refuses what no run can have, before anything is touched.

What needs the data or the devices is checked where these are known, in `training.run`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from experiments.configs.recipes import FIXED, NUM_ENDPOINTS, default_num_endpoints
from experiments.system.errors import UserError
from experiments.system.values import flatten


class Bound(NamedTuple):
    """What one value may be.

    Attributes:
      said: the values that it may have.
      holds: whether a value is one of them.
      why: what is wrong with others, where that does not go without saying.
    """

    said: str
    holds: Callable[[Any], bool]
    why: str = ""


def at_least(least: int, otherwise: str = "") -> Bound:
    return Bound(f"at least {least}{otherwise}", lambda value: least <= value < math.inf)


def one_of(*names: str) -> Bound:
    said = " or ".join([", ".join(map(repr, names[:-1])), repr(names[-1])])
    return Bound(said, names.__contains__)


def each(bound: Bound) -> Bound:
    return Bound(
        f"at least one, each {bound.said}",
        lambda values: bool(values) and all(map(bound.holds, values)),
    )


POSITIVE = Bound("a value above 0", lambda value: 0 < value < math.inf)
NOT_NEGATIVE = Bound("a value of 0 or more", lambda value: 0 <= value < math.inf)
SHARE = Bound("a value in [0, 1)", lambda value: 0 <= value < 1)

SCHEDULES = ("cosine", "swa_constant", "swa_cyclic", "snapshot", "fge")
AVERAGES = ("none", "ema", "swa", "swag", "snapshots")
NETWORKS = ("conv_net", "cifar_resnet", "resnet18", "resnet50", "wide_resnet50_2")

# Names of values as they are after `config.`; those that are not here may be anything of their type.
BOUNDS: dict[str, Bound] = {
    "kind": one_of(*NUM_ENDPOINTS),
    "seed": at_least(0),
    "num_epochs": at_least(1),
    "batch_size": at_least(1),
    "steps_per_call": at_least(0, ", or 0 for automatic"),
    "max_corrupt": at_least(0),
    "image_size": at_least(0),
    "num_classes": at_least(0),
    "train_size": at_least(0),
    "validation_size": at_least(0),
    "normalization": one_of("cifar", "imagenet", "tiny_imagenet", "none"),
    "augmentation": one_of("none", "crop_and_flip", "random_resized_crop"),
    "loader.num_workers": at_least(0),
    "loader.num_threads": at_least(0),
    "loader.prefetch": at_least(1),
    "label_noise.rate": SHARE,
    "label_noise.mode": one_of("uniform_wrong", "uniform_any", "file"),
    "label_noise.seed": at_least(0),
    "model.name": one_of(*NETWORKS),
    "model.depth": at_least(8),
    "model.width": at_least(1),
    "model.widths": each(at_least(1)),
    "model.stem": one_of("imagenet", "small"),
    "model.dropout": SHARE,
    "model.dtype": one_of("float32", "bfloat16"),
    "optimizer.learning_rate": POSITIVE,
    "optimizer.momentum": SHARE,
    "optimizer.weight_decay": NOT_NEGATIVE,
    "optimizer.warmup_epochs": at_least(0),
    "schedule.name": one_of(*SCHEDULES),
    "schedule.num_models": at_least(1),
    "average.name": one_of(*AVERAGES),
    "average.decay": SHARE,
    "sharpness.rho": NOT_NEGATIVE,
    "subspace.num_endpoints": at_least(1),
    "subspace.penalty": NOT_NEGATIVE,
    "subspace.num_samples": at_least(1),
    "subspace.volume": NOT_NEGATIVE,
    "label_smoothing": SHARE,
    "init_head": one_of("keep", "new"),
    "evaluation.num_points": Bound(
        "an odd number of at least 3",
        lambda value: value >= 3 and value % 2 == 1,
        "which leaves out the midpoint or the ends",
    ),
    "evaluation.grid_steps": Bound(
        "a multiple of 6, or 0 for no grid",
        lambda value: value >= 0 and value % 6 == 0,
        "which leaves out the centre or middles of edges",
    ),
    "evaluation.num_bins": at_least(1),
    "evaluation.batch_size": at_least(1),
    "evaluation.recalibration_batch_size": at_least(1),
    "evaluation.recalibration_examples": at_least(0),
    "evaluation.at_once": at_least(0),
    "evaluation.num_samples": at_least(1),
    "evaluation.oracle_epochs": at_least(0),
    "evaluation.severities": Bound(
        "some of 1 to 5", lambda values: set(values) <= set(range(1, 6))
    ),
    "checkpoint_seconds": Bound("a value of 0 or more", lambda value: value >= 0),
}

# Of the suites of `experiments.reproduce`, whose runs have the ones above.
SUITE_BOUNDS: dict[str, Bound] = {
    "num_threads": at_least(0, ", or 0 for one per CPU core"),
    "runs_at_once": at_least(1),
    "landscape.resolution": at_least(2),
    "landscape.hessian_images": at_least(1),
    "landscape.hessian_batch_size": at_least(1),
    "landscape.hessian_iterations": at_least(1),
}


# Rules tie values to each other. Each returns what is wrong as a sentence, or nothing.


def _endpoints_of_the_kind(config: ConfigDict) -> str:
    kind, n = config.kind, config.subspace.num_endpoints
    start = f"config.subspace.num_endpoints is {n} but"
    if kind in FIXED and n != (usual := default_num_endpoints(kind)):
        return f"{start} {kind} has {usual}; leave it out, or use the kind simplex or curve."
    if kind == "curve" and n < 3:
        return f"{start} a curve has at least 3; use the kind line."
    if kind == "standard_matched" and n < 2:
        return f"{start} standard_matched is matched to the midpoint of 2 endpoints or more; use 2."
    return ""


def _simplexes_have_all_vertices(config: ConfigDict) -> str:
    n, simplexes = config.subspace.num_endpoints, config.subspace.simplexes
    vertices = sorted({vertex for simplex in simplexes for vertex in simplex})
    if config.kind != "complex" or vertices == list(range(n)):
        return ""
    return (
        f"config.subspace.num_endpoints is {n} but config.subspace.simplexes are of the vertices "
        f"{vertices}; name each of 0 to {n - 1} in at least one simplex."
    )


def _given_endpoints_exist(config: ConfigDict) -> str:
    n, given = config.subspace.num_endpoints, tuple(config.subspace.given)
    if any(not 0 <= place < n for place in given):
        return (
            f"config.subspace.given is {given} but there are {n} endpoints; use numbers from 0 to "
            f"{n - 1}."
        )
    if len(set(given)) < len(given):
        return f"config.subspace.given is {given}, which names an endpoint twice; name each once."
    return ""


def _samples_divide_the_batch(config: ConfigDict) -> str:
    samples, size = config.subspace.num_samples, config.batch_size
    if size % samples == 0:
        return ""
    return (
        f"config.subspace.num_samples is {samples}, which does not divide config.batch_size of "
        f"{size}; choose a divisor."
    )


def _num_trained(config: ConfigDict) -> int:
    return 1 if config.kind == "standard_matched" else config.subspace.num_endpoints


def _a_penalty_has_a_pair(config: ConfigDict) -> str:
    penalty = config.subspace.penalty
    if not penalty or _num_trained(config) > 1:
        return ""
    return (
        f"config.subspace.penalty is {penalty} but {config.kind} has 1 endpoint and so no pair; set "
        "the penalty to 0 or use at least 2 endpoints."
    )


def _single_networks_are_kept(config: ConfigDict) -> str:
    name, n = config.average.name, _num_trained(config)
    if name not in ("swag", "snapshots") or n == 1:
        return ""
    return (
        f"config.average.name is {name!r} but {config.kind} has {n} endpoints; these keep single "
        "networks: use 'ema' or 'swa' with a subspace."
    )


def _training_outlasts_the_warmup(config: ConfigDict) -> str:
    epochs, warmup = config.num_epochs, config.optimizer.warmup_epochs
    if warmup < epochs:
        return ""
    return (
        f"config.num_epochs is {epochs} and config.optimizer.warmup_epochs is {warmup}, but training "
        "takes at least 1 epoch more than the warm-up; pass "
        f"--config.optimizer.warmup_epochs={min(1, epochs - 1)}, or --config.num_epochs={warmup + 1}."
    )


def _labels_of_a_file(config: ConfigDict) -> str:
    noise = config.label_noise
    if noise.mode == "file" and noise.rate:
        return (
            f"config.label_noise.rate is {noise.rate} but config.label_noise.mode is 'file', which "
            "takes the labels as they are; set config.label_noise.rate to 0."
        )
    if (noise.mode == "file") != bool(noise.file):
        return (
            f"config.label_noise.mode is {noise.mode!r} but config.label_noise.file is "
            f"{noise.file!r}; use the mode 'file' with a file, and another one without."
        )
    return ""


def _layers_of_a_resnet(model: ConfigDict) -> str:
    if model.name != "cifar_resnet" or model.depth % 6 == 2:
        return ""
    return (
        f"config.model.depth is {model.depth} but a CIFAR ResNet has 6 n + 2 layers; use 8, "
        "14, 20, 32, 44, 56 or 110."
    )


def _corruptions_have_severities(config: ConfigDict) -> str:
    corruptions = config.evaluation.corruptions
    if not corruptions or config.evaluation.severities:
        return ""
    return (
        "config.evaluation.severities is empty but config.evaluation.corruptions has "
        f"{corruptions[0]!r}; use some of 1 to 5."
    )


RULES: tuple[Callable[[ConfigDict], str], ...] = (
    _endpoints_of_the_kind,
    _simplexes_have_all_vertices,
    _given_endpoints_exist,
    _samples_divide_the_batch,
    _a_penalty_has_a_pair,
    _single_networks_are_kept,
    _training_outlasts_the_warmup,
    _labels_of_a_file,
    lambda config: _layers_of_a_resnet(config.model),
    _corruptions_have_severities,
)

# Values that are no more, and what stands in their place.
REMOVED = {
    "split_seed": (0, "the split is the same for all runs"),
    "model.batch_norm_groups": (1, "every network has its own batch-norm statistics"),
    "schedule.low_factor": (0.5, "averages are taken at half the learning rate"),
    "average.rank": (10, "SWAG keeps 10 deviations"),
    "average.num_samples": (5, "SWAG draws 5 networks"),
    "subspace.penalty_pairs": ("random", "the penalty is of one random pair of endpoints per step"),
    "evaluation.choose_steps": (0, "a point is chosen on a grid, config.evaluation.grid_steps"),
    "evaluation.adapt_to_corruption": (
        False,
        "statistics are those of clean training images; subspace_jax.recalibrate measures others",
    ),
}


def check(config: ConfigDict) -> None:
    """Refuses a run's config that has a value that it can't have.

    Raises:
      UserError: the value, what it is, and what it may be.

    Example:
      >>> from experiments.configs import digits
      >>> check(digits.get_config("line"))
    """
    check_bounds(config.to_dict())
    for rule in RULES:
        if sentence := rule(config):
            raise UserError(sentence)


def check_bounds(values: Mapping[str, Any], bounds: Mapping[str, Bound] = BOUNDS) -> None:
    """Refuses single values; those that are not there are not looked at.

    Raises:
      UserError: the value, what it is, and what it may be.
    """
    for name, value in flatten(values):
        bound = bounds.get(name.removeprefix("config."))
        if bound and not bound.holds(value):
            why = f", {bound.why}" if bound.why else ""
            raise UserError(f"{name} is {value!r}{why}; use {bound.said}.")


def check_network(model: ConfigDict) -> None:
    """Refuses a `config.model` of which there is no network.

    Raises:
      UserError: the value, what it is, and what it may be.
    """
    check_bounds({"model": model.to_dict()})
    if sentence := _layers_of_a_resnet(model):
        raise UserError(sentence)


def check_choices(lists: Mapping[str, Sequence], numbers: bool = True) -> None:
    """Refuses values of a suite to choose among, by name: at least one each, none twice.

    Raises:
      UserError: none, one that is no number, or one twice.
    """
    for name, values in lists.items():
        if not values or numbers and not all(isinstance(value, int | float) for value in values):
            what = "number" if numbers else "value"
            raise UserError(f"config.{name} is {values}; give at least one {what}.")
        if len(set(values)) < len(values):
            raise UserError(f"config.{name} is {values}; give each once.")


def said(name: str) -> str:
    """What a value may be, by its dotted name; "" if it may be anything of its type.

    Example:
      >>> said("config.subspace.penalty"), said("config.run.batch_size"), said("config.dataset")
      ('a value of 0 or more', 'at least 1', '')
    """
    name = name.removeprefix("config.")
    bound = (BOUNDS | SUITE_BOUNDS).get(name.removeprefix("run."))
    return bound.said if bound else ""


def without_removed(stored: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of a stored config that are still some.

    Raises:
      UserError: one that is no more has another value than every run has now.
    """
    kept: dict[str, Any] = {}
    for name, value in stored.items():
        full = f"{prefix}{name}".removeprefix("run.")
        if full in REMOVED:
            usual, instead = REMOVED[full]
            if value != usual:
                raise UserError(
                    f"config.{full} is {value!r} in that record but is no more: {instead}; leave the "
                    "record out, or use the version of the code that made it."
                )
        else:
            is_group = isinstance(value, Mapping)
            kept[name] = without_removed(value, f"{full}.") if is_group else value
    return kept
