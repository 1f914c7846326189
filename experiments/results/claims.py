"""What the article claims, as comparisons that a suite's runs can be asked about.

A claim that does not hold is reported as one that does not hold.
"""

import collections
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from experiments.configs.recipes import LARGEST, PRODUCTS, product_of
from experiments.results import significance, styles, summary, wording

NOISE = 0.2  # the article's share of wrong labels
SEVERITIES = range(1, 6)

AGREE, DISAGREE, NOT_SIGNIFICANT = "agree", "disagree", "not significant"
NOT_FINITE, TOO_FEW, NOT_RUN = "not finite", "too few seeds", "not run"
OUTCOMES = (AGREE, DISAGREE, NOT_SIGNIFICANT, NOT_FINITE, TOO_FEW, NOT_RUN)


HEADER = ("Figure", "Claim", "Difference", "n", "p", "Outcome", "Expected at full scale")


class Claim(NamedTuple):
    """One side is better than the other in one metric.

    Attributes:
      figure: of the article, "fig2" to "fig7"; or "control" or "tuned", which it does not have.
      ours, theirs: `(recipe, place)`.
      metric: dotted path within a place.
      better: "higher" or "lower".
      label_noise, setting: of the runs of both sides.
      gap: how much better at full scale, in the unit of the metric, where that is known.
      source: where the gap is from.
    """

    figure: str
    ours: tuple[str, str]
    theirs: tuple[str, str]
    metric: str
    better: str
    label_noise: float = 0.0
    setting: str = "article"
    gap: float | None = None
    source: str = ""

    @property
    def text(self) -> str:
        """The claim as one sentence."""
        where = []
        if self.label_noise:
            where.append(f"with {wording.labels_said(self.label_noise)}")
        if self.setting != "article":
            where.append(f"with both {self.setting}")
        start = f"{' and '.join(where)}, {side_said(self.ours)}".removeprefix(", ")
        return f"{start[0].upper()}{start[1:]} {self.comparison}."

    @property
    def comparison(self) -> str:
        """What is said of our side."""
        is_one = self.ours[1] in ("midpoint", "ensemble")
        if self.metric == "accuracy":
            more = {"higher": "more", "lower": "less"}[self.better]
            says = f"{'is' if is_one else 'are'} {more} accurate"
        else:
            says = f"{'has' if is_one else 'have'} {self.better} {wording.metric_said(self.metric)}"
        return f"{says} than {side_said(self.theirs, self.ours)}"


class Verdict(NamedTuple):
    """What the runs say of a claim.

    Attributes:
      claim: what was asked.
      difference, stderr: mean over seeds of ours minus theirs, and its standard error.
      num_seeds: how many seeds both sides have.
      p_value: of a two-sided paired t-test, corrected by Holm's method for all claims tested together;
        `None` where nothing can be tested.
      outcome: one of `OUTCOMES`. A claim is disagreed with only by a significant difference in the other
        direction; one without runs of both sides is "not run", and counts nowhere.
    """

    claim: Claim
    difference: float | None
    stderr: float | None
    num_seeds: int
    p_value: float | None
    outcome: str


def claim_of(figure, ours, theirs, metric="accuracy", noise=0.0, **others) -> Claim:
    """A claim about products, or `(recipe, place)`; accuracy is better higher, the others lower."""
    sides = [product_of(side) if isinstance(side, str) else side for side in (ours, theirs)]
    better = "higher" if metric.endswith("accuracy") else "lower"
    return Claim(figure, *sides, metric, better, noise, **others)


_AVERAGES = ("swa_constant", "swa_cyclic")
_LINES = ("line", "layerwise_line")


def _of_size(m: int) -> tuple[str, str]:
    """The plain and the layerwise subspace of m endpoints."""
    return _LINES if m == 2 else (f"simplex_{m}", f"layerwise_simplex_{m}")


def _article() -> list[Claim]:
    fig2 = [
        claim_of(
            "fig2", ("simplex_3", "inside the triangle"), ("simplex_3", "outside the triangle")
        )
    ]
    ends = {
        "line": {
            "gap": 0.007,
            "source": "two runs of the authors' code on CIFAR-10: midpoints 91.68 and 91.70 %, ends "
            "about 91.0 %",
        }
    }
    fig3 = [
        *(claim_of("fig3", name, "standard") for name in (*_LINES, "curve")),
        *(claim_of("fig3", name, (name, "endpoints"), **ends.get(name, {})) for name in _LINES),
        claim_of("fig3", "curve", ("curve", "endpoints")),
        claim_of("fig3", "layerwise_line", "line"),
        claim_of("fig3", "line", "curve"),
    ]
    fig4 = [
        claim_of("fig4", subspace, f"{average}_{m}")
        for m in range(2, LARGEST + 1)
        for subspace in _of_size(m)
        for average in _AVERAGES
    ]
    calibrated = ("standard", "dropout", *_AVERAGES)
    fig5 = [claim_of("fig5", line, rival, "ece") for line in _LINES for rival in calibrated]
    fig5 += [
        claim_of("fig5", "line_label_smoothing", rival, "ece")
        for rival in (*calibrated, "label_smoothing", *_LINES)
    ]
    fig6 = [
        claim_of("fig6", line, "standard", f"corruptions.snow.{severity}.accuracy")
        for line in _LINES
        for severity in SEVERITIES
    ]
    rivals = (
        "standard",
        "early_stopping",
        "dropout",
        "label_smoothing",
        *_AVERAGES,
        "line",
        "curve",
    )
    fig7 = [claim_of("fig7", "layerwise_line", rival, noise=NOISE) for rival in rivals]
    fig7.append(claim_of("fig7", "line", "standard", noise=NOISE))
    return [*fig2, *fig3, *fig4, *fig5, *fig6, *fig7]


# Of the article's figures: what is drawn there without being claimed is not here.
ARTICLE: tuple[Claim, ...] = tuple(_article())

# Not the article's: is the gain the subspace's own, and more than that of a plain average?
CONTROLS: tuple[Claim, ...] = tuple(
    claim_of("control", subspace, rival, metric, noise)
    for noise in (0.0, NOISE)
    for subspace, matched in summary.MATCHED.items()
    for rival in (matched, "ema")
    for metric in styles.METRICS
)

# Not the article's: learning rate and weight decay of every method tuned on validation data.
TUNED: tuple[Claim, ...] = tuple(
    claim_of("tuned", subspace, rival, metric, noise, setting="tuned")
    for noise in (0.0, NOISE)
    for subspace in (*_LINES, "layerwise_line_ema")
    for rival in ("standard", "ema")
    for metric in styles.METRICS
)


def check(
    claims: Sequence[Claim],
    runs: Sequence[summary.Record],
    chosen: Mapping[summary.Key, summary.Record] | None = None,
) -> list[Verdict]:
    """What the runs say of every claim, in its order.

    Args:
      claims: those that are tested together: each is corrected for all the others that have runs.
      runs: records of runs; of a sweep, only what it chose counts.
      chosen: what `summary.choose_values` returns; made here if it is not given.
    """
    found = summary.chosen_runs(runs, chosen)

    def column(claim, side):
        recipe, place = side
        seeds = found.get((claim.setting, claim.label_noise, recipe), {})
        return summary.column(seeds, place, claim.metric)

    effects = [significance.paired(column(c, c.ours), column(c, c.theirs)) for c in claims]
    corrected = significance.holm([effect.p_value for effect in effects])
    effects = [e._replace(p_value=p) for e, p in zip(effects, corrected, strict=True)]
    return [Verdict(c, *e, _outcome(c, e)) for c, e in zip(claims, effects, strict=True)]


def _outcome(claim: Claim, effect: significance.Effect) -> str:
    if not effect.num_seeds:
        return NOT_RUN
    if effect.difference is None:
        return NOT_FINITE
    if effect.num_seeds < significance.MIN_SEEDS:
        return TOO_FEW
    if not effect.is_significant:
        return NOT_SIGNIFICANT
    return AGREE if (effect.difference > 0) == (claim.better == "higher") else DISAGREE


def plain(verdict: Verdict) -> str:
    """What one comparison found, with one number.

    Example:
      >>> claim = claim_of("fig3", "line", "standard")
      >>> plain(Verdict(claim, 0.0278, 0.0055, 8, 0.001, AGREE)).partition("the line ")[2]
      'is more accurate than standard training, by 2.78 ± 0.55 points.'
    """
    claim = verdict.claim
    ours, theirs = side_said(claim.ours), side_said(claim.theirs, claim.ours)
    metric = wording.metric_said(claim.metric)
    start = f"With {wording.kind_of_labels(claim.label_noise)}"
    start += f" and both {claim.setting}" if claim.setting != "article" else ""
    if verdict.outcome in (AGREE, DISAGREE, NOT_SIGNIFICANT):
        claim = claim._replace(better="higher" if verdict.difference > 0 else "lower")
        size = wording.amount(claim.metric, abs(verdict.difference), verdict.stderr, sign="")
        doubt = f" (not significant, {verdict.num_seeds} seeds)"
        return (
            f"{start}, {ours} {claim.comparison}, by {size}"
            f"{doubt if verdict.outcome == NOT_SIGNIFICANT else ''}."
        )
    reason = "there are too few seeds" if verdict.outcome == TOO_FEW else "a value is not finite"
    return f"{start}, {ours} and {theirs} are not tested for {metric}: {reason}."


def figure_said(figure: str) -> str:
    """A group of claims as a heading.

    Example:
      >>> figure_said("fig3"), figure_said("control")
      ('Figure 3', 'Controls')
    """
    others = {"control": "Controls", "tuned": "Tuned against tuned"}
    return others.get(figure, figure.replace("fig", "Figure "))


def side_said(side: tuple[str, str], other: tuple[str, str] | None = None) -> str:
    """A side in the middle of a sentence; short where it is of the same runs as the other one."""
    recipe, place = side
    if side in _SAID:
        return _SAID[side]
    if place.endswith("side the triangle"):
        return f"the networks {place}"
    name = _lower(styles.style_of(recipe).label)
    if place == "endpoints":
        return "its own ends" if other and other[0] == recipe else f"the ends of the {name}"
    if place == "midpoint" and recipe in styles.SUBSPACES:
        return f"the midpoint of the {name}"
    if place == "midpoint" and recipe.startswith("standard_matched"):
        return "its matched control"
    if side in _PRODUCTS:
        name = _lower(styles.style_of(_PRODUCTS[side]).label)
        return f"the {name}" if name.startswith("ensemble of") else name
    return f"the {place} of {'the ' if recipe in styles.SUBSPACES else ''}{name}"


_SAID = {
    ("standard", "midpoint"): "standard training",
    ("ema", "midpoint"): "the EMA of standard training",
}
_PRODUCTS = {side: product for product, side in reversed(PRODUCTS.items())}


def _lower(label: str) -> str:
    return label if label[:2].isupper() else label[0].lower() + label[1:]


def cells(verdict: Verdict) -> tuple[str, ...]:
    """One verdict as a row under `HEADER`."""
    claim, p_value = verdict.claim, verdict.p_value
    expected = ""
    if claim.gap is not None:
        sign = 1 if claim.better == "higher" else -1
        expected = wording.amount(claim.metric, sign * claim.gap)
    return (
        claim.figure,
        claim.text,
        wording.amount(claim.metric, verdict.difference, verdict.stderr),
        str(verdict.num_seeds),
        "" if p_value is None else wording.p_said(p_value),
        verdict.outcome,
        expected,
    )


def counts_said(verdicts: Sequence[Verdict]) -> str:
    """How many claims came out how, in one sentence; those that were not run are no part of the sum."""
    counts = collections.Counter(verdict.outcome for verdict in verdicts)
    missing = counts.pop(NOT_RUN, 0)
    said = [f"{counts[outcome]} {outcome}" for outcome in OUTCOMES if counts[outcome]]
    total = f"{counts.total()} claim{'s' * (counts.total() != 1)}"
    result = f"{total}: {', '.join(said)}." if said else "No claim has runs."
    return f"{result} Without runs: {missing}." if missing else result


def to_json(verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """Every verdict as a dict of JSON values, the fields of its claim and its text among them."""
    return [
        {"figure": claim.figure, "text": claim.text}
        | {key: list(value) if isinstance(value, tuple) else value for key, value in fields.items()}
        | {name: value for name, value in verdict._asdict().items() if name != "claim"}
        for verdict in verdicts
        for claim in [verdict.claim]
        for fields in [claim._asdict()]
    ]


def from_json(entries: Sequence[Mapping[str, Any]]) -> list[Verdict]:
    """The verdicts that `to_json` stored."""

    def build(entry, kind, **more):
        fields = {name: entry[name] for name in kind._fields if name in entry}
        return kind(
            **{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}, **more
        )

    return [build(entry, Verdict, claim=build(entry, Claim)) for entry in entries]
