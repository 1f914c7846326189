"""What each value of a config may be; what needs data or devices is checked in `training.run`."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from experiments.configs.recipes import FIXED, NUM_ENDPOINTS
from experiments.system.errors import UserError
from experiments.system.values import flatten


class Bound(NamedTuple):
    """What one value may be: in words, and whether a value is one of them."""

    said: str
    holds: Callable[[Any], bool]


def at_least(least: int, otherwise: str = "") -> Bound:
    return Bound(f"at least {least}{otherwise}", lambda value: least <= value < math.inf)


def one_of(*names: str) -> Bound:
    said = " or ".join([", ".join(map(repr, names[:-1])), repr(names[-1])])
    return Bound(said, names.__contains__)


def whole(least: int) -> Bound:
    said = "0, 1, 2, ..." if least == 0 else f"a whole number of at least {least}"
    return Bound(said, lambda value: type(value) is int and value >= least)


def maybe(bound: Bound) -> Bound:
    return Bound(f"none, or {bound.said}", lambda values: len(values) == 0 or bound.holds(values))


def each(bound: Bound, what: str = "at least one") -> Bound:
    return Bound(
        f"{what}, each {bound.said}",
        lambda values: bool(values) and all(map(bound.holds, values)),
    )


def different(bound: Bound) -> Bound:
    several = each(bound, "one or more different values")
    return several._replace(
        holds=lambda values: several.holds(values) and len(set(values)) == len(values)
    )


POSITIVE = Bound("a value above 0", lambda value: 0 < value < math.inf)
# Nor what float32 rounds to 1.
SHARE = Bound("a value in [0, 1)", lambda value: 0 <= value < 1 - 2**-24)
# Runs are named by their noise, in whole percents.
PERCENTS = Bound(
    "a share of whole percents",
    lambda value: 0 <= value < 1 and abs(100 * value - round(100 * value)) < 1e-6,
)
SEEDS = different(whole(0))
NAME = Bound("a name", lambda value: isinstance(value, str))
NAMES = different(NAME)
NUMBERS = different(Bound("a number", lambda value: type(value) in (int, float)))

# Names of values as they are after `config.`; those that are not here may be anything of their type.
BOUNDS: dict[str, Bound] = {
    **dict.fromkeys(("seed", "label_noise.seed", "max_corrupt", "image_size"), at_least(0)),
    **dict.fromkeys(("num_classes", "train_size", "validation_size"), at_least(0)),
    **dict.fromkeys(("loader.num_workers", "loader.num_threads"), at_least(0)),
    **dict.fromkeys(("optimizer.warmup_epochs", "evaluation.at_once"), at_least(0)),
    **dict.fromkeys(("evaluation.recalibration_examples", "evaluation.oracle_epochs"), at_least(0)),
    **dict.fromkeys(("num_epochs", "batch_size", "loader.prefetch", "model.width"), at_least(1)),
    **dict.fromkeys(("subspace.num_endpoints", "subspace.num_samples"), at_least(1)),
    **dict.fromkeys(("schedule.num_models", "evaluation.num_samples"), at_least(1)),
    **dict.fromkeys(("evaluation.num_bins", "evaluation.batch_size"), at_least(1)),
    "evaluation.recalibration_batch_size": at_least(1),
    "steps_per_call": at_least(0, ", or 0 for automatic"),
    **dict.fromkeys(("label_noise.rate", "label_smoothing", "model.dropout"), SHARE),
    **dict.fromkeys(("optimizer.momentum", "average.decay"), SHARE),
    "optimizer.learning_rate": POSITIVE,
    **dict.fromkeys(("optimizer.weight_decay", "sharpness.rho"), at_least(0)),
    **dict.fromkeys(("subspace.penalty", "subspace.volume"), at_least(0)),
    "checkpoint_seconds": Bound("a value of 0 or more", lambda value: value >= 0),
    "kind": one_of(*NUM_ENDPOINTS),
    "normalization": one_of("cifar", "imagenet", "tiny_imagenet", "none"),
    "augmentation": one_of("none", "crop_and_flip", "random_resized_crop"),
    "label_noise.mode": one_of("uniform_wrong", "uniform_any", "file"),
    "schedule.name": one_of("cosine", "swa_constant", "swa_cyclic", "snapshot", "fge"),
    "average.name": one_of("none", "ema", "swa", "swag", "snapshots"),
    "init_head": one_of("keep", "new"),
    "model.name": one_of("conv_net", "cifar_resnet", "resnet18", "resnet50", "wide_resnet50_2"),
    "model.stem": one_of("imagenet", "small"),
    "model.dtype": one_of("float32", "bfloat16"),
    "model.depth": at_least(8),
    "model.widths": each(whole(1)),
    "subspace.simplexes": maybe(each(SEEDS, "one or more tuples")),
    **dict.fromkeys(("evaluation.corruptions", "evaluation.outside"), maybe(NAMES)),
    "subspace.weights": maybe(each(NAME)),
    # With the midpoint and the ends; with the centre and the middles of edges.
    "evaluation.num_points": Bound("an odd number of at least 3", lambda n: n >= 3 and n % 2 == 1),
    "evaluation.grid_steps": Bound(
        "a multiple of 6, or 0 for no grid", lambda n: n >= 0 and n % 6 == 0
    ),
    "evaluation.severities": Bound(
        "some of 1 to 5", lambda values: set(values) <= set(range(1, 6))
    ),
}

# Of the suites of `experiments.reproduce`, whose runs have the ones above.
SUITE_BOUNDS: dict[str, Bound] = {
    "seeds": SEEDS,
    "noise_rates": different(PERCENTS),
    "products": NAMES,
    **dict.fromkeys(("clean_only", "all_seeds", "corrupted", "tuning.recipes"), maybe(NAMES)),
    "tuning.seeds": SEEDS,
    "landscape.seeds": maybe(SEEDS),
    "tuning.learning_rate": NUMBERS,
    "tuning.weight_decay": NUMBERS,
    "num_threads": at_least(0, ", or 0 for one per CPU core"),
    "runs_at_once": at_least(1),
    "landscape.resolution": at_least(2),
    **dict.fromkeys(("landscape.hessian_images", "landscape.hessian_batch_size"), at_least(1)),
    "landscape.hessian_iterations": at_least(1),
}


def mistakes(config: ConfigDict) -> Iterator[str]:
    """What is wrong with values that are tied to each other: a sentence each."""
    kind, subspace, n = config.kind, config.subspace, config.subspace.num_endpoints
    num_trained = 1 if kind == "standard_matched" else n

    start = f"config.subspace.num_endpoints is {n} but"
    if kind in FIXED and n != (usual := NUM_ENDPOINTS[kind]):
        yield f"{start} {kind} has {usual}; leave it out, or use the kind simplex or curve."
    if n < (least := {"curve": 3, "standard_matched": 2}.get(kind, 1)):
        yield f"{start} {kind} has at least {least}; use {least} or more."
    vertices = sorted({vertex for simplex in subspace.simplexes for vertex in simplex})
    if kind == "complex" and vertices != list(range(n)):
        yield (
            f"{start} config.subspace.simplexes are of the vertices {vertices}; name each of 0 to "
            f"{n - 1} in at least one simplex."
        )

    given = tuple(subspace.given)
    if not set(given) <= set(range(n)) or len(set(given)) < len(given):
        yield (
            f"config.subspace.given is {given} but there are {n} endpoints; use different numbers from "
            f"0 to {n - 1}."
        )
    if config.batch_size % subspace.num_samples:
        yield (
            f"config.subspace.num_samples is {subspace.num_samples}, which does not divide "
            f"config.batch_size of {config.batch_size}; choose a divisor."
        )
    if subspace.penalty and num_trained == 1:
        yield (
            f"config.subspace.penalty is {subspace.penalty} but {kind} has 1 endpoint and so no pair; "
            "set the penalty to 0 or use at least 2 endpoints."
        )
    if config.average.name in ("swag", "snapshots") and num_trained > 1:
        yield (
            f"config.average.name is {config.average.name!r} but {kind} has {n} endpoints; these keep "
            "single networks: use 'ema' or 'swa' with a subspace."
        )

    epochs, warmup = config.num_epochs, config.optimizer.warmup_epochs
    if warmup >= epochs:
        yield (
            f"config.num_epochs is {epochs} and config.optimizer.warmup_epochs is {warmup}, but "
            "training takes at least 1 epoch more than the warm-up; pass "
            f"--config.optimizer.warmup_epochs={min(1, epochs - 1)}, or "
            f"--config.num_epochs={warmup + 1}."
        )

    noise, evaluation = config.label_noise, config.evaluation
    if noise.mode == "file" and noise.rate:
        yield (
            f"config.label_noise.rate is {noise.rate} but config.label_noise.mode is 'file', which "
            "takes the labels as they are; set config.label_noise.rate to 0."
        )
    if (noise.mode == "file") != bool(noise.file):
        yield (
            f"config.label_noise.mode is {noise.mode!r} but config.label_noise.file is "
            f"{noise.file!r}; use the mode 'file' with a file, and another one without."
        )
    if evaluation.corruptions and not evaluation.severities:
        yield (
            "config.evaluation.severities is empty but config.evaluation.corruptions has "
            f"{evaluation.corruptions[0]!r}; use some of 1 to 5."
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
    """Refuses a run's config that has a value that it can't have."""
    check_network(config.model)
    check_bounds(config.to_dict())
    if sentence := next(mistakes(config), ""):
        raise UserError(sentence)


def check_bounds(values: Mapping[str, Any], bounds: Mapping[str, Bound] = BOUNDS) -> None:
    """Refuses single values that are out of their bounds; others may be anything."""
    for name, value in flatten(values):
        bound = bounds.get(name.removeprefix("config."))
        try:
            holds = not bound or bound.holds(value)
        except TypeError:  # words in place of numbers, or tuples in place of either
            holds = False
        if not holds:
            raise UserError(f"{name} is {value!r}; use {bound.said}.")


def check_network(model: ConfigDict) -> None:
    """Refuses a `config.model` of which there is no network."""
    check_bounds({"model": model.to_dict()})
    if model.name == "cifar_resnet" and model.depth % 6 != 2:
        raise UserError(
            f"config.model.depth is {model.depth} but a CIFAR ResNet has 6 n + 2 layers; use 8, "
            "14, 20, 32, 44, 56 or 110."
        )


def said(name: str) -> str:
    """What a value may be, by its dotted name; "" if it may be anything of its type."""
    name = name.removeprefix("config.")
    bound = (BOUNDS | SUITE_BOUNDS).get(name.removeprefix("run."))
    return bound.said if bound else ""


def without_removed(stored: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of a stored config that are still some; others must be what every run has now."""
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
