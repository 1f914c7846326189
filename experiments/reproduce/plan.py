"""From a suite's config to its runs: which recipes its figures need, at which noise, from what."""

import json
from collections.abc import Iterable

from ml_collections import ConfigDict

from experiments.configs.check import SUITE_BOUNDS, check_bounds, check_choices
from experiments.configs.check import check as check_run
from experiments.configs.recipes import (
    PARTNER_SEED,
    PRODUCTS,
    RECIPES,
    Need,
    check_recipe,
    product_of,
)
from experiments.configs.suites import FIGURES, run_config
from experiments.reproduce.records import Entry, digest
from experiments.reproduce.scenes import PATHS, SLICED
from experiments.system.errors import UserError
from experiments.training import placement


def check(config: ConfigDict) -> None:
    """Refuses a suite that can't be planned.

    Raises:
      UserError: values that are missing, unknown, or given twice.
    """
    for name in ("seeds", "noise_rates", "products"):
        check_choices({name: config[name]}, numbers=name != "products")
    for rate in config.noise_rates:
        if abs(100 * rate - round(100 * rate)) > 1e-6:
            raise UserError(
                f"config.noise_rates has {rate} but runs are named by whole percents; use "
                f"{round(100 * rate) / 100:g}, or train that rate by itself."
            )
    check_bounds(config.to_dict(), SUITE_BOUNDS)
    placement.check_runs(config.run.mesh, config.runs_at_once)
    lists = {f"sweeps.{recipe}.values": sweep["values"] for recipe, sweep in config.sweeps.items()}
    if config.tuning.recipes:
        check_choices({"tuning.recipes": config.tuning.recipes}, numbers=False)
        for name in ("seeds", "learning_rate", "weight_decay"):
            lists[f"tuning.{name}"] = config.tuning[name]
    check_choices(lists)
    for names in ("products", "clean_only"):
        unknown = [name for name in config[names] if name not in PRODUCTS]
        if unknown:
            raise UserError(
                f"config.{names} has {unknown[0]!r}; choose among {', '.join(PRODUCTS)}."
            )
    chosen = [*config.sweeps, *(["tuning"] if config.tuning.recipes else [])]
    if chosen and not config.run.validation_size:
        raise UserError(
            f"config.run.validation_size is 0 but {', '.join(chosen)} choose on validation "
            "images; hold some out, or empty config.sweeps and config.tuning.recipes."
        )
    shared = set(config.seeds) & set(config.tuning.seeds)
    everyone = (*config.seeds, *config.tuning.seeds)
    if any(type(seed) is not int or seed < 0 for seed in everyone):
        raise UserError(f"config.seeds and config.tuning.seeds are {everyone}; use 0, 1, 2, ...")
    partners = {seed + PARTNER_SEED for seed in config.seeds}
    if partners & set(everyone):
        raise UserError(
            f"Seeds {sorted(partners & set(everyone))} are those of networks that others start from, "
            f"{PARTNER_SEED} above config.seeds; use other ones."
        )
    if config.tuning.recipes and shared:
        raise UserError(
            f"config.tuning.seeds and config.seeds share {sorted(shared)}; tune with other seeds than "
            "those that are reported."
        )


def figures_of(only: str) -> tuple[str, ...]:
    """The figures of `--only`, names with commas between; all of them if it is empty.

    Raises:
      UserError: a figure that does not exist.
    """
    names = tuple(filter(None, only.split(","))) or tuple(FIGURES)
    for name in names:
        if name not in FIGURES:
            raise UserError(f"--only is {name!r}; choose among {', '.join(FIGURES)}.")
    return names


def article_entries(config: ConfigDict, figures: Iterable[str]) -> list[Entry]:
    """All runs with the article's recipe that some figures need, and those that they start from."""
    wanted: dict[str, Entry] = {}
    for recipe, noise in _recipes(config, figures):
        for seed in config.seeds:
            for values in _sweep_of(config, recipe):
                _add(wanted, config, recipe, "article", noise, seed, values, seed)
    for seed in landscape_seeds(config):  # beside which a line is drawn
        if any(_lines_are_drawn(config, figure) for figure in figures):
            need = _BESIDE_A_LINE
            _add(wanted, config, need.recipe, "partner", 0.0, seed + need.seed, {}, seed)
    return list(wanted.values())


# A network that has nothing in common with those of the same seed, which share initialisations.
_BESIDE_A_LINE = Need("standard", PARTNER_SEED)
_SCENERY = {"fig1": SLICED, "fig2": ("simplex_3",), "curvature": PATHS}


def landscape_seeds(config: ConfigDict) -> list[int]:
    """The seeds whose landscapes are drawn: those of `landscape.seeds` that are trained."""
    return [seed for seed in config.landscape.seeds if seed in config.seeds]


def _lines_are_drawn(config: ConfigDict, figure: str) -> bool:
    lines = "line" in config.products and 0.0 in config.noise_rates
    return lines and "line" in _SCENERY.get(figure, ())


def check_landscapes(entries: Iterable[Entry], only: str) -> None:
    """Refuses figures of landscapes that were asked for by name but have nothing to look at.

    Raises:
      UserError: there is one.
    """
    looked_at = {entry.method for entry in entries}
    for name in filter(None, only.split(",")):
        if name in _SCENERY and not looked_at & set(_SCENERY[name]):
            raise UserError(
                f"--only has {name} but no network of it is looked at; set config.landscape.seeds to "
                f"some of config.seeds, and config.products to some of {', '.join(_SCENERY[name])}."
            )


def landscape_entries(config: ConfigDict, figures: Iterable[str]) -> list[Entry]:
    """What landscapes look at; a line is drawn beside an independent network of the same seed."""
    recipes = dict.fromkeys(name for figure in figures for name in _SCENERY.get(figure, ()))
    trained = {entry.id: entry for entry in article_entries(config, figures)}
    look = {name: value for name, value in config.landscape.items() if name != "seeds"}
    entries = []
    seeds = landscape_seeds(config) if 0.0 in config.noise_rates else ()
    for seed in seeds:
        for recipe in recipes:
            needs = (f"article/{recipe}/noise0/seed{seed}",)
            if recipe == "line":
                beside = _BESIDE_A_LINE
                needs += (f"partner/{beside.recipe}/noise0/seed{seed + beside.seed}",)
            if set(needs) <= trained.keys():
                how = look | {"first": seed == seeds[0]}
                given = " ".join([json.dumps(how), *(digest(trained[need]) for need in needs)])
                entries.append(
                    entry(config, recipe, "landscape", 0.0, seed, {}, needs, given=given)
                )
    return entries


def tuning_entries(config: ConfigDict, figures: Iterable[str]) -> list[Entry]:
    """Every tuned recipe with every learning rate and weight decay, on validation data."""
    tuning = config.tuning
    if "tuned" not in figures:
        return []
    return [
        entry(config, recipe, "tuning", noise, seed, _step(rate, decay))
        for seed in tuning.seeds
        for noise in config.noise_rates
        for recipe in tuning.recipes
        if not noise or not _is_clean_only(config, recipe)
        for rate in tuning.learning_rate
        for decay in tuning.weight_decay
    ]


def tuned_entries(config: ConfigDict, chosen: dict[tuple, dict]) -> list[Entry]:
    """Every tuned recipe with the values that the tuning chose, by (setting, noise, recipe)."""
    return [
        entry(config, recipe, "tuned", noise, seed, values)
        for seed in config.seeds
        for (setting, noise, recipe), values in chosen.items()
        if setting == "tuning"
    ]


def _step(learning_rate: float, weight_decay: float) -> dict[str, float]:
    return {"optimizer.learning_rate": learning_rate, "optimizer.weight_decay": weight_decay}


def _recipes(config: ConfigDict, figures: Iterable[str]) -> list[tuple[str, float]]:
    """Recipes and noise rates, each pair once, in the order of the products."""
    pairs = {}
    for product in config.products:
        for figure in figures:
            products, clean, noisy = FIGURES[figure]
            if product in products:
                recipe = product_of(product)[0]
                for noise in config.noise_rates:
                    if (noisy and not _is_clean_only(config, recipe)) if noise else clean:
                        pairs[recipe, noise] = None
    return list(pairs)


def _is_clean_only(config: ConfigDict, recipe: str) -> bool:
    return recipe in (product_of(product)[0] for product in config.clean_only)


def _sweep_of(config: ConfigDict, recipe: str) -> list[dict]:
    if recipe not in config.sweeps:
        return [{}]
    sweep = config.sweeps[recipe]
    return [{sweep.name: value} for value in sweep["values"]]


def _add(wanted, config, recipe, setting, noise, seed, values, noise_seed) -> str:
    """Adds an entry and, before it, those that it needs; returns its id.

    All of them have the same wrong labels: there is one data set, and a partner differs from the run
    that starts from it in its initialisation and its batches alone.
    """
    needs = []
    for need in RECIPES[recipe].needs:
        own = need.seed == 0 and need.recipe in PRODUCTS
        kind = "article" if own else "partner"
        needed = (need.recipe, kind, noise, seed + need.seed, {}, noise_seed)
        needs.append(_add(wanted, config, *needed))
    given = " ".join(digest(wanted[need]) for need in needs)
    made = entry(config, recipe, setting, noise, seed, values, tuple(needs), noise_seed, given)
    wanted.setdefault(made.id, made)
    return made.id


def entry(
    config: ConfigDict,
    recipe: str,
    setting: str,
    noise: float,
    seed: int,
    values: dict,
    needs: tuple[str, ...] = (),
    noise_seed: int | None = None,
    given: str = "",
) -> Entry:
    """One run of a suite, with the config that it is run with.

    Args:
      config: of the suite.
      recipe, setting, noise, seed, values, needs, given: see `Entry`.
      noise_seed: of the wrong labels; the run's own by default.

    Raises:
      UserError: values that its method can't have.
    """
    recipe = check_recipe(recipe)
    run = run_config(config.suite, recipe)
    with run.unlocked():
        run.update(config.run.to_dict())
    changes = config.recipes.get(recipe, ConfigDict()).to_dict()
    changes = {name.replace("__", "."): value for name, value in changes.items()} | values
    run.lock()
    try:
        run.update_from_flattened_dict(changes)
    except (KeyError, AttributeError) as error:
        raise UserError(
            f"config.recipes.{recipe} and config.sweeps.{recipe} set {', '.join(changes)} but a run's "
            "config has not all of them; see --help of `python -m experiments.cifar`."
        ) from error
    if setting != "article":  # whose test split no oracle looks at
        run.evaluation.oracle_epochs = 0
    run.seed = seed
    run.label_noise.rate = noise
    run.label_noise.seed = seed if noise_seed is None else noise_seed
    check_run(run)
    return Entry(recipe, setting, noise, seed, run, values, needs, given)
