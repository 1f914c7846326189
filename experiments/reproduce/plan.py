"""From a suite's config to its runs: which recipes its figures need, at which noise, from what."""

import itertools
import json
from collections.abc import Iterable

from ml_collections import ConfigDict

from experiments.configs.check import NUMBERS, SUITE_BOUNDS, check_bounds
from experiments.configs.check import check as check_run
from experiments.configs.recipes import PARTNER_SEED, PRODUCTS, RECIPES, check_recipe
from experiments.configs.suites import FIGURES, NUM_FIRST_SEEDS, run_config
from experiments.reproduce.records import Entry, digest
from experiments.reproduce.scenes import PATHS, SLICED
from experiments.system.errors import UserError
from experiments.training import placement
from subspace_jax import corruptions


def check(config: ConfigDict) -> None:
    """Refuses a suite that can't be planned: values that are missing, unknown, or given twice."""
    sweeps = {f"sweeps.{recipe}.values": NUMBERS for recipe in config.sweeps}
    check_bounds(config.to_dict(), SUITE_BOUNDS | sweeps)
    placement.check_runs(config.run.mesh, config.runs_at_once)
    for names in ("products", "clean_only", "all_seeds", "corrupted"):
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
    partners = {seed + PARTNER_SEED for seed in config.seeds}
    for name, seeds, of in (
        ("tuning.seeds", config.tuning.seeds if config.tuning.recipes else (), config.seeds),
        ("seeds", config.seeds, partners),
        ("tuning.seeds", config.tuning.seeds, partners),
    ):
        if shared := sorted(set(seeds) & set(of)):
            what = "of networks that others start from" if of is partners else "that are reported"
            raise UserError(f"config.{name} has {shared}, which are seeds {what}; use other ones.")


def figures_of(only: str) -> tuple[str, ...]:
    """The figures of `--only`, names with commas between; all of them if it is empty."""
    names = tuple(filter(None, only.split(","))) or tuple(FIGURES)
    for name in names:
        if name not in FIGURES:
            raise UserError(f"--only is {name!r}; choose among {', '.join(FIGURES)}.")
    return names


def entries(config: ConfigDict, figures: Iterable[str]) -> list[Entry]:
    """All that some figures need, but for the runs with values that the tuning is to choose."""
    kinds = (article_entries, tuning_entries, corrupted_entries, landscape_entries)
    return [entry for of_kind in kinds for entry in of_kind(config, figures)]


def article_entries(config: ConfigDict, figures: Iterable[str]) -> list[Entry]:
    """All runs with the article's recipe that some figures need, and those that they start from."""
    wanted: dict[str, Entry] = {}
    for recipe, noise in _recipes(config, figures):
        sweep = config.sweeps.get(recipe)
        tried = [{sweep.name: value} for value in sweep["values"]] if sweep else [{}]
        for seed in _seeds(config, recipe, "article"):
            for values in tried:
                _add(wanted, config, recipe, "article", noise, seed, values, seed)
    lines = "line" in config.products and 0.0 in config.noise_rates
    if lines and any("line" in _SCENERY.get(figure, ()) for figure in figures):
        for seed in landscape_seeds(config):
            _add(wanted, config, "standard", "partner", 0.0, seed + PARTNER_SEED, {}, seed)
    return list(wanted.values())


_SCENERY = {"fig1": SLICED, "fig2": ("simplex_3",), "curvature": PATHS}


def landscape_seeds(config: ConfigDict) -> list[int]:
    """The seeds whose landscapes are drawn: those of `landscape.seeds` that are trained."""
    return [seed for seed in config.landscape.seeds if seed in config.seeds]


def check_landscapes(entries: Iterable[Entry], only: str) -> None:
    """Refuses figures of landscapes that were asked for by name but have nothing to look at."""
    looked_at = {entry.method for entry in entries if entry.setting == "landscape"}
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
    found = []
    seeds = landscape_seeds(config) if 0.0 in config.noise_rates else ()
    for seed in seeds:
        for recipe in recipes:
            needs = (f"article/{recipe}/noise0/seed{seed}",)
            if recipe == "line":  # networks of one seed have the same initialisation
                needs += (f"partner/standard/noise0/seed{seed + PARTNER_SEED}",)
            if set(needs) <= trained.keys():
                how = json.dumps(look | {"first": seed == seeds[0]})
                given = " ".join([how, *(digest(trained[need]) for need in needs)])
                found.append(entry(config, recipe, "landscape", 0.0, seed, {}, needs, given=given))
    return found


def corrupted_entries(config: ConfigDict, figures: Iterable[str]) -> list[Entry]:
    """Midpoints that predict images of all corruptions of the benchmark."""
    trained = article_entries(config, figures) if "corruptions" in figures else []
    return [
        entry(
            config,
            *(of.method, "corrupted", of.label_noise, of.seed, {}, (of.id,)),
            given=digest(of),
        )
        for of in trained
        if of.seed in config.seeds[:NUM_FIRST_SEEDS] and _is_of(config.corrupted, of.method)
    ]


def tuning_entries(config: ConfigDict, figures: Iterable[str]) -> list[Entry]:
    """Every tuned recipe with every learning rate and weight decay, on validation data."""
    tuning = config.tuning
    values = [
        {"optimizer.learning_rate": rate, "optimizer.weight_decay": decay}
        for rate in tuning.learning_rate
        for decay in tuning.weight_decay
    ]
    return [
        entry(config, recipe, "tuning", noise, seed, chosen)
        for seed in tuning.seeds
        for noise in config.noise_rates
        for recipe in tuning.recipes
        if "tuned" in figures and not (noise and _is_of(config.clean_only, recipe))
        for chosen in values
    ]


def tuned_entries(config: ConfigDict, chosen: dict[tuple, dict]) -> list[Entry]:
    """Every tuned recipe with the values that the tuning chose, by (setting, noise, recipe)."""
    return [
        entry(config, recipe, "tuned", noise, seed, values)
        for (setting, noise, recipe), values in chosen.items()
        if setting == "tuning"
        for seed in _seeds(config, recipe, "tuned")
    ]


def _recipes(config: ConfigDict, figures: Iterable[str]) -> list[tuple[str, float]]:
    """Recipes and noise rates, each pair once, in the order of the products."""
    pairs = {}
    for product, figure in itertools.product(config.products, figures):
        products, clean, noisy = FIGURES[figure]
        recipe = PRODUCTS[product][0]
        for noise in config.noise_rates if product in products else ():
            if (noisy and not _is_of(config.clean_only, recipe)) if noise else clean:
                pairs[recipe, noise] = None
    return list(pairs)


def _is_of(products: Iterable[str], recipe: str) -> bool:
    return recipe in (PRODUCTS[product][0] for product in products)


def _seeds(config: ConfigDict, recipe: str, setting: str) -> tuple[int, ...]:
    all_of_them = setting == "article" and _is_of(config.all_seeds, recipe)
    few = config.all_seeds and not all_of_them
    return config.seeds[:NUM_FIRST_SEEDS] if few else config.seeds


def _add(wanted, config, recipe, setting, noise, seed, values, noise_seed) -> str:
    """Adds an entry and, before it, those that it needs, with the same wrong labels; returns its id."""
    needs = []
    for need in RECIPES[recipe].needs:
        kind = "article" if need.seed == 0 and need.recipe in PRODUCTS else "partner"
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
    """One run of a suite, with the config that it is run with; see `Entry`."""
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
    if setting == "corrupted":
        run.evaluation.corruptions = corruptions.BENCHMARK
    if setting != "article":  # whose test split no oracle looks at
        run.evaluation.oracle_epochs = 0
    run.seed, run.label_noise.rate = seed, noise
    run.label_noise.seed = seed if noise_seed is None else noise_seed
    check_run(run)
    return Entry(recipe, setting, noise, seed, run, values, needs, given)
