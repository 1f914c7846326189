"""The measurements of `benchmarks.run` as Markdown."""


def markdown(results: dict) -> str:
    """Tables of ratios, speeds, evaluation, start and memory."""
    sections = [_ratios(results), _speeds(results)]
    if "memory" in results:
        sections += [_costs(results), _memory(results)]
    if "roofline" in results:
        sections.append(_roofline(results["roofline"]))
    return "\n\n".join(sections) + "\n"


def table(header: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def spread_text(values: dict, digits: int) -> str:
    """A median and the range of the rounds."""
    median, low, high = (f"{values[k]:.{digits}f}" for k in ("median", "min", "max"))
    return f"{median} ({low} to {high})"


def _ratios(results) -> str:
    rows = []
    for name, found in results["ratios"].items():
        target, goal = found.get("target"), found.get("goal")
        said = "" if target is None else f"at least {target:.2f}"
        said += "" if goal is None else f", goal {goal:.2f}"
        met = "" if target is None else "yes" if found["median"] >= target else "no"
        rows.append([name, spread_text(found, 2), said, met])
    return table(["images/s, ratio in one round", "median (range)", "target", "met"], rows)


def _speeds(results) -> str:
    rows = [
        [name, spread_text(found["images_per_second"], 0), f"{found['peak_bytes'] / 2**20:.0f}"]
        for name, found in results["training"].items()
    ]
    return table(["training", "images/s, median (range)", "peak memory, MiB"], rows)


def _costs(results) -> str:
    found = results["evaluation"]
    what = (
        f"evaluation of {found['num_points']} points, {found['num_training_images']} + "
        f"{found['num_test_images']} images"
    )
    rows = [[f"{what}, {name}", spread_text(v, 1)] for name, v in found["seconds"].items()]
    begin = results["start"]
    rows += [[f"import {name}", spread_text(v, 2)] for name, v in begin["import_seconds"].items()]
    rows += [
        [f"process start to first step, {name} cache", spread_text(v, 1)]
        for name, v in begin["first_step_seconds"].items()
    ]
    return table(["cost", "seconds, median (range)"], rows)


def _memory(results) -> str:
    rows = [
        [
            str(found["num_endpoints"]),
            *(mebibytes(found.get(f"{k}_bytes")) for k in ("step", "state", "excess")),
        ]
        for found in results["memory"].values()
    ]
    header = ["endpoints", "step, MiB", "weights and optimizer, MiB", "beyond the bound, MiB"]
    return table(header, rows)


def _roofline(found) -> str:
    rows = [
        [
            name,
            *(mebibytes(step[key]) for key in ("bound_bytes", "program_bytes")),
            f"{1000 * step['bound_bytes'] / found['copy_bytes_per_second']:.2f}",
            f"{1000 * step['step_seconds']:.2f}",
            f"{100 * step['share']:.0f} %",
        ]
        for name, step in found["steps"].items()
    ]
    copied = found["copy_bytes_per_second"] / 1e9
    header = ["step", "activations moved, MiB", "XLA's count, MiB"]
    header += [f"at {copied:.1f} GB/s, ms", "measured, ms", "share"]
    return table(header, rows)


def mebibytes(count: int | None) -> str:
    """A number of bytes in MiB."""
    return "unknown" if count is None else f"{count / 2**20:.1f}"
