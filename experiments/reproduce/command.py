"""Every figure of the article, and every rival, by one command."""

import argparse
import collections
import functools
import sys
import time
from pathlib import Path
from types import SimpleNamespace

from absl import flags

from experiments.configs import check, suites
from experiments.configs.suites import FIGURES
from experiments.evaluation.inputs import Inputs
from experiments.report import pages
from experiments.reproduce import known_runs, metrics, plan, records, scenes, scheduler
from experiments.reproduce.known_runs import KnownRuns, Sorted
from experiments.reproduce.records import Entry, Suite
from experiments.reproduce.scheduler import Outcome
from experiments.results import claims, summary, tables
from experiments.runs import workdir
from experiments.system import cli, files, lock, progress
from experiments.system.errors import Interrupted, UserError
from experiments.system.provenance import finished_now, provenance

# suite -> its scales, the first by default.
SUITES = {
    "digits": ("digits",),
    "cifar10": ("few", "small", "full"),
    "tiny_imagenet": ("full",),
    "imagenet": ("full",),
}

DESCRIPTION = f"""Trains what the article's figures compare, with every rival, and draws and tests it.

    python -m experiments.reproduce SUITE [--scale SCALE] [--only FIGURES] [--check] [--workdir W]
    python -m experiments.reproduce digits --only fig3,fig7

The second one is a short one to try; it needs no data. SUITE is one of {", ".join(SUITES)};
cifar10 has the scales few (few images, for two CPU cores and a day), small (more images for fewer
epochs) and full (the article's protocol). FIGURES are names with commas between:
{", ".join(FIGURES)}; without --only all are made.
The same command goes on where it was interrupted, and skips what is done; folders of runs that were
made on another machine may be copied into WORKDIR/runs (with WORKDIR/config.json if it is new),
and --draw_only trains nothing, draws what is done and says what is missing. --known_runs takes the
runs of published results as done, to add seeds or methods to them. --check prints every claim with
its test."""


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit code: 1 if some run failed."""
    argv = list(sys.argv[1:] if argv is None else argv)
    failed = []
    try:
        scale, rest = _suite_and_scale(argv)
    except UserError as error:
        return cli.fail(error)
    code = cli.run(
        functools.partial(run, failed=failed),
        argv=rest,
        description=DESCRIPTION,
        default_config=f"{suites.__file__}:{scale}",
        default_workdir=f"runs/{scale}",
        define=_define,
        said=check.said,
        removed=check.REMOVED,
    )
    return code or bool(failed)


def _define(values: flags.FlagValues) -> None:
    text = functools.partial(flags.DEFINE_string, default="", flag_values=values)
    switch = functools.partial(flags.DEFINE_bool, default=False, flag_values=values)
    text("only", help="Figures to make, with commas between.")
    text("known_runs", help="metrics.json files with commas between, whose runs count as done.")
    switch("draw_only", help="Train nothing; draw what is done and name what is missing.")
    switch("check", help="Print every claim with its test.")


def _suite_and_scale(argv: list[str]) -> tuple[str, list[str]]:
    """The name of a suite's config, and the other arguments."""
    names = [argument for argument in argv[:1] if not argument.startswith("-")]
    if not names and not {"-h", "-help", "--help"} & set(argv):
        raise UserError(f"The first argument names no suite; choose one of {', '.join(SUITES)}.")
    name = names[0] if names else "digits"
    if name not in SUITES:
        raise UserError(f"Unknown suite {name!r}; choose one of {', '.join(SUITES)}.")
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--scale", nargs="?", const="", default=SUITES[name][0])
    found, rest = parser.parse_known_args(argv[len(names) :])
    if found.scale not in SUITES[name]:
        raise UserError(
            f"--scale is {found.scale!r} but {name} has {', '.join(SUITES[name])}; choose one."
        )
    return name if found.scale == name else f"{name}-{found.scale}", rest


def run(options: SimpleNamespace, failed: list[str]) -> None:
    """Makes the figures that are asked for; names of failed runs are appended to `failed`."""
    plan.check(options.config)
    plan.figures_of(options.only)  # refuses unknown ones before there is a folder
    folder = workdir.check(options.workdir, options.config, options.overwrite)
    with lock.hold(folder):
        # Whoever held it may have made another suite.
        workdir.check(options.workdir, options.config, options.overwrite)
        _run(options, folder, failed)


def _run(options: SimpleNamespace, folder: Path, failed: list[str]) -> None:
    config, inputs, figures = options.config, Inputs(), plan.figures_of(options.only)
    entries = plan.entries(config, figures)
    trained = [entry for entry in entries if entry.setting not in records.LOOKING]
    if not any(entry.setting == "article" for entry in entries):
        raise UserError(
            f"--only is {options.only!r} but the suite has no method of it; choose other figures or "
            "add products to config.products."
        )
    scheduler.check(trained, inputs)
    plan.check_landscapes(entries, options.only)
    known = _known(options, folder)
    # Refuses runs of another config.
    found = known_runs.sort(None if options.overwrite else folder, known, entries)
    missing: list[str] = []
    if options.draw_only:
        entries, missing = _done(entries, found)
        if not any(entry.setting == "article" for entry in entries):
            raise UserError(
                f"--draw_only is given but {len(entries)} of {len(entries) + len(missing)} runs are "
                f"done in {folder} (not {missing[0]}); run the same command without it."
            )
        found = known_runs.sort(folder, known, entries)
    previous = None if options.overwrite else workdir.finished(folder)
    workdir.prepare(folder, config, options.overwrite)
    _take(found, entries, folder)
    record = provenance("experiments.reproduce", config.run.model.dtype)
    record |= {"seeds": list(config.seeds)}
    begin = time.perf_counter()
    with progress.Stop() as stop:
        try:
            suite = Suite(folder, inputs, lambda: bool(stop.requested))
            outcome = _run_all(options, suite, entries, known, missing)
        except Interrupted:
            print(f"Stopped; what was done is in {folder}: run the same command again to go on.")
            raise
        progress.say("drawing the figures and the report")  # which no signal ends
        runs = list(outcome.records.values())
        record |= finished_now() | {
            "wall_seconds": round(time.perf_counter() - begin, 1),
            "num_runs": len(runs),
            "seconds_of_all_runs": round(sum(run["wall_seconds"] for run in runs), 1),
        }
        before = previous and {run["id"] for run in previous["runs"] + previous["landscapes"]}
        if before and outcome.records.keys() <= before:
            # Nothing was run: the numbers come from where they came from before.
            drawn = {name: record[name] for name in ("command", "commit", "date")}
            record = previous["provenance"] | {"drawn": drawn}
        results = metrics.results(config, runs, outcome.failures, record, figures)
        results |= {"missing": missing} if missing else {}
        files.write_atomically(folder / workdir.TABLE, tables.results(results) + "\n")
        workdir.publish(folder, *pages.of_suite(results, figures))
        files.write_json(folder / workdir.METRICS, results)
    failed.extend(outcome.failures)
    _show(results, folder, options.check)


def _known(options: SimpleNamespace, folder: Path) -> list[KnownRuns]:
    """The runs of the results files that are named."""
    if options.draw_only and options.overwrite:
        raise UserError("--draw_only trains nothing but --overwrite deletes all; give one of them.")
    names = list(filter(None, map(str.strip, options.known_runs.split(","))))
    for name in names if options.overwrite else ():
        if Path(name).expanduser().resolve().is_relative_to(folder.resolve()):
            raise UserError(
                f"--known_runs has {name!r}, which --overwrite would delete; give another --workdir."
            )
    return [known_runs.read(name) for name in names]


def _take(found: Sorted, entries: list[Entry], folder: Path) -> None:
    """Makes records of runs that are known, and makes way for those that are to be done again."""
    if found.known:
        left = len(entries) - len(found.done) - len(found.known)
        print(f"{len(found.known)} runs are known, {left} of {len(entries)} are to be done.")
    if found.stale:
        print(
            f"{len(found.stale)} runs have a record but no weights, and others start from them; they "
            "are done again."
        )
    for name in found.stale:
        workdir.delete(records.run_folder(folder, name))
    for entry in entries:
        if entry.id in found.known:
            records.write_known(folder, entry, found.known[entry.id])


def _done(entries: list[Entry], found: Sorted) -> tuple[list[Entry], list[str]]:
    """The entries that have a record, and the ids of the others."""
    there = found.done | found.known.keys() | found.stale
    missing = [entry.id for entry in entries if entry.id not in there]
    return [entry for entry in entries if entry.id in there], missing


def _run_all(
    options: SimpleNamespace,
    suite: Suite,
    entries: list[Entry],
    known: list[KnownRuns],
    missing: list[str],
) -> Outcome:
    """All entries; those with tuned values when it is known which these are, or are `missing`."""
    config = options.config
    at_once, how = config.runs_at_once, dict[str, dict]()
    looking = config.landscape.to_dict(), next(iter(plan.landscape_seeds(config)), -1)

    def run_one(entry, advance):
        if suite.stop():
            raise Interrupted
        if entry.setting in records.LOOKING:
            return scenes.record(entry, advance, suite, *looking)
        return scheduler.run_entry(entry, advance, suite, **how.get(entry.id, {"slot": 0}))

    def train_group(runs, advance):
        how.update({e.id: {"slot": slot, "at_once": at_once} for slot, e in enumerate(runs)})
        left = (e.id for e in runs if not records.is_settled(suite.folder, e))
        how[next(left, runs[0].id)]["begin"] = time.perf_counter()  # the time is the first one's
        scheduler.train_group([e for e in runs if e.setting not in records.LOOKING], advance, suite)

    def run_all(entries):
        return scheduler.run_all(entries, run_one, config.num_threads, train_group, at_once)

    first = run_all(entries)
    tuned = plan.tuned_entries(config, summary.choose_values(list(first.records.values())))
    if not tuned:
        return first
    found = known_runs.sort(suite.folder, known, tuned)
    if options.draw_only:
        tuned, more = _done(tuned, found)
        missing += more
    _take(found, tuned, suite.folder)
    second = run_all(tuned)
    return Outcome(first.records | second.records, first.failures | second.failures)


def _show(found: dict, folder: Path, check: bool) -> None:
    rows = [row for row in found["table"] if row["place"] != "endpoints"]
    print(tables.of_rows(rows).text(), end="\n\n")
    claimed = tables.of_claims(claims.from_json(found["claims"]))
    if check and claimed.cells:
        print(claimed.text(), end="\n\n")
    print(found["counts"])
    if missing := found.get("missing"):
        kinds = collections.Counter(name.split("/noise")[0].split(",")[0] for name in missing)
        said = ", ".join(f"{kind} ({count})" for kind, count in kinds.items())
        print(f"{len(missing)} runs are missing: {said}; metrics.json names them.")
    for failure in found["failed"]:
        print(f"Failed: {failure['id']}: {failure['error']}", file=sys.stderr)
    print(f"Report: {(folder / workdir.REPORT).absolute()}")
