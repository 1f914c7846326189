"""What the article claims, as comparisons that a suite's runs can be asked about."""

import collections
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from experiments.configs.recipes import LARGEST, PRODUCTS
from experiments.results import significance, styles, summary, wording

NOISE = 0.2  # the article's share of wrong labels

AGREE, DISAGREE, NOT_SIGNIFICANT = "agree", "disagree", "not significant"
NOT_FINITE, TOO_FEW, NOT_RUN = "not finite", "too few seeds", "not run"
OUTCOMES = (AGREE, DISAGREE, NOT_SIGNIFICANT, NOT_FINITE, TOO_FEW, NOT_RUN)

Side = tuple[str, str]  # recipe, place


class Claim(NamedTuple):
    """Our side is better than the other in one metric, a dotted path within a place."""

    figure: str  # the article's, or control or tuned, which it does not have
    ours: Side
    theirs: Side
    metric: str = "accuracy"
    label_noise: float = 0.0
    setting: str = "article"

    @property
    def better(self) -> str:
        return "higher" if self.metric.endswith("accuracy") else "lower"

    @property
    def text(self) -> str:
        """The claim as one sentence."""
        noise = [f"with {wording.labels_said(self.label_noise)}"] if self.label_noise else []
        where = noise + ([f"with both {self.setting}"] if self.setting != "article" else [])
        start = f"{' and '.join(where)}, {side_said(self.ours)}".removeprefix(", ")
        return f"{start[0].upper()}{start[1:]} {self.comparison(self.better)}."

    def comparison(self, better: str) -> str:
        """What is said of our side, if its metric is higher or lower."""
        is_one = self.ours[1] in ("midpoint", "ensemble")
        if self.metric == "accuracy":
            more = {"higher": "more", "lower": "less"}[better]
            says = f"{'is' if is_one else 'are'} {more} accurate"
        else:
            says = f"{'has' if is_one else 'have'} {better} {wording.metric_said(self.metric)}"
        return f"{says} than {side_said(self.theirs, self.ours)}"


class Verdict(NamedTuple):
    """What the runs say of a claim: the fields of an `Effect`, corrected, and one of `OUTCOMES`."""

    claim: Claim
    difference: float | None
    stderr: float | None
    num_seeds: int
    p_value: float | None
    outcome: str


def claim_of(figure: str, ours: str | Side, theirs: str | Side, *metric_noise_setting) -> Claim:
    """A claim about products, or `(recipe, place)`."""
    sides = [PRODUCTS[side] if isinstance(side, str) else side for side in (ours, theirs)]
    return Claim(figure, *sides, *metric_noise_setting)


_AVERAGES = ("swa_constant", "swa_cyclic")
_LINES = ("line", "layerwise_line")
_CALIBRATED = ("standard", "dropout", *_AVERAGES)
_NOISY = ("standard", "early_stopping", "dropout", "label_smoothing", *_AVERAGES, "line", "curve")


# Of the article's figures: what is drawn there without being claimed is not here.
ARTICLE: tuple[Claim, ...] = (
    claim_of("fig2", ("simplex_3", "inside the triangle"), ("simplex_3", "outside the triangle")),
    *(claim_of("fig3", name, "standard") for name in (*_LINES, "curve")),
    *(claim_of("fig3", name, (name, "endpoints")) for name in (*_LINES, "curve")),
    claim_of("fig3", "layerwise_line", "line"),
    claim_of("fig3", "line", "curve"),
    *(
        claim_of("fig4", subspace, f"{average}_{m}")
        for m in range(2, LARGEST + 1)
        for subspace in (_LINES if m == 2 else (f"simplex_{m}", f"layerwise_simplex_{m}"))
        for average in _AVERAGES
    ),
    *(claim_of("fig5", line, rival, "ece") for line in _LINES for rival in _CALIBRATED),
    *(
        claim_of("fig5", "line_label_smoothing", rival, "ece")
        for rival in (*_CALIBRATED, "label_smoothing", *_LINES)
    ),
    *(
        claim_of("fig6", line, "standard", f"corruptions.snow.{severity}.accuracy")
        for line in _LINES
        for severity in range(1, 6)
    ),
    *(claim_of("fig7", "layerwise_line", rival, "accuracy", NOISE) for rival in _NOISY),
    claim_of("fig7", "line", "standard", "accuracy", NOISE),
)


def _of_all_metrics(figure: str, rivals: Mapping, setting: str = "article") -> tuple[Claim, ...]:
    """Products against their rivals in every metric, with clean and with wrong labels."""
    return tuple(
        claim_of(figure, ours, rival, metric, noise, setting)
        for noise in (0.0, NOISE)
        for ours in rivals
        for rival in rivals[ours]
        for metric in styles.METRICS
    )


# Not the article's: is the gain the subspace's own, and more than that of a plain average?
CONTROLS = _of_all_metrics("control", {s: (m, "ema") for s, m in summary.MATCHED.items()})
# Not the article's: learning rate and weight decay of every method tuned on validation data.
_TUNED = (*_LINES, "layerwise_line_ema")
TUNED = _of_all_metrics("tuned", dict.fromkeys(_TUNED, ("standard", "ema")), "tuned")
# Not the article's: what m times the learning rate changes, in suites that train subspaces at both.
_RATES = {f"{line}_lr_m": ("standard", "ema", line) for line in _LINES}
LEARNING_RATE = _of_all_metrics("learning_rate", _RATES)


def check(claims: Sequence[Claim], runs: Sequence[summary.Record]) -> list[Verdict]:
    """What the runs say of every claim, each corrected for all the others that have runs."""
    found = summary.chosen_runs(runs)

    def column(claim, side):
        recipe, place = side
        seeds = found.get((claim.setting, claim.label_noise, recipe), {})
        return summary.column(seeds, place, claim.metric)

    effects = [significance.paired(column(c, c.ours), column(c, c.theirs)) for c in claims]
    effects = significance.corrected(effects)
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
    """What a comparison of finite values found, with one number."""
    claim, difference, stderr, num_seeds, _, outcome = verdict
    tuned = f" and both {claim.setting}" if claim.setting != "article" else ""
    start = f"With {wording.kind_of_labels(claim.label_noise)}{tuned}, {side_said(claim.ours)}"
    said = claim.comparison("higher" if difference > 0 else "lower")
    size = wording.amount(claim.metric, abs(difference), stderr, sign="")
    doubt = "" if outcome in (AGREE, DISAGREE) else f" ({outcome}, n = {num_seeds})"
    return f"{start} {said}, by {size}{doubt}."


def side_said(side: Side, other: Side | None = None) -> str:
    """A side in the middle of a sentence; short where it is of the same runs as the other one."""
    recipe, place = side
    if side == ("standard", "midpoint"):
        return "standard training"
    if place.endswith("side the triangle"):
        return f"the networks {place}"
    name = _lower(styles.style_of(recipe).label)
    if place == "endpoints":
        return "its own ends" if other and other[0] == recipe else f"the ends of the {name}"
    if place == "midpoint" and recipe in styles.SUBSPACES:
        return f"the midpoint of the {name}"
    if place == "midpoint" and recipe.startswith("standard_matched"):
        return "its matched control"
    name = _lower(styles.style_of(_PRODUCTS[side]).label)
    if recipe == "ema":
        return f"the {name} of standard training"
    return f"the {name}" if name.startswith("ensemble of") else name


_PRODUCTS = {side: product for product, side in reversed(PRODUCTS.items())}


def _lower(label: str) -> str:
    return label if label[:2].isupper() else label[0].lower() + label[1:]


def counts_said(verdicts: Sequence[Verdict]) -> str:
    """How many claims came out how, in one sentence; those that were not run are no part of the sum."""
    counts = collections.Counter(verdict.outcome for verdict in verdicts)
    missing = counts.pop(NOT_RUN, 0)
    said = [f"{counts[outcome]} {outcome}" for outcome in OUTCOMES if counts[outcome]]
    total = f"{counts.total()} claim{'s' * (counts.total() != 1)}"
    result = f"{total}: {', '.join(said)}." if said else "No claim has runs."
    return f"{result} Without runs: {missing}." if missing else result


def to_json(verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """Every verdict as a dict, the fields of its claim and its text among them."""
    return [
        {"figure": claim.figure, "text": claim.text}
        | claim._asdict()
        | {"better": claim.better}
        | dict(zip(Verdict._fields[1:], rest, strict=True))
        for claim, *rest in verdicts
    ]


def from_json(entries: Sequence[Mapping[str, Any]]) -> list[Verdict]:
    """The verdicts that `to_json` stored."""
    found = []
    for entry in entries:
        entry = {k: tuple(v) if isinstance(v, list) else v for k, v in entry.items()}
        claim = Claim(*(entry[name] for name in Claim._fields))
        found.append(Verdict(claim, *(entry[name] for name in Verdict._fields[1:])))
    return found
