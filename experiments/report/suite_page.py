"""The page of a suite: its figures, each with what it shows, and folded below its claims and tables."""

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from experiments.configs.recipes import PRODUCTS
from experiments.report import document
from experiments.report.run_page import BINS
from experiments.results import claims, tables, wording

Metrics = Mapping[str, Any]

# What each suite is, by its name and scale.
_INTRODUCTIONS = {
    "digits": "Small convolutional networks on scikit-learn's digits, which show how the methods behave "
    "and do not settle the article's claims.",
    "cifar10 few": "ResNet-8 of width 16 on 3,000 images of CIFAR-10, which it learns by heart: the "
    "article's regime at a small scale.",
    "cifar10 small": "ResNet-8 of width 8 on 10,000 images of CIFAR-10: a small-scale version, whose "
    "numbers are not the article's.",
    "cifar10 full": "cResNet20 on CIFAR-10 by the article's protocol, but for 5,000 training images "
    "that are held out for choices.",
    "tiny_imagenet full": "ResNet18 on Tiny-ImageNet by the article's protocol, but for the training "
    "images that are held out for choices.",
}
_LINES = ("layerwise_line", "line")  # whose comparison is a figure's headline
_COMPARED = {"fig5": "ece", "fig6": "corruptions.snow.3.accuracy"}  # in others the accuracy
_HEADLINES = {  # of figures that compare nothing
    "fig1": "The test loss around what was trained: brighter is lower.",
    "fig4": "Accuracy by the number of endpoints.",
    "corruptions": "The errors under 15 corruptions, beside those of standard training.",
    "curvature": "The sharpness of the loss along each path, beside the test error.",
    "reliability": "How often predictions are right, by how sure they are.",
    "selection": "How many of the predictions that one keeps are wrong.",
}
_ROWS = "Means ± one standard error over seeds. NLL and ECE: lower is better"
# What the words on the page mean.
_TERMS = (
    "A line, curve or simplex of networks is trained at random points between its endpoints, and its "
    "midpoint is the network to deploy.",
    "Standard (matched) is ordinary training whose steps are those of a midpoint: a subspace differs "
    "from it in where gradients are taken, and by the cosine penalty.",
    "Wrong labels replace true ones in the training images alone, and are never the true ones.",
    "Article setting: the article's recipe for all methods. Tuned setting: learning rate and weight "
    "decay chosen for each method by accuracy on validation images with true labels. Corrupted setting: "
    "the article's networks, and the mCE is over all corruptions of the benchmark.",
    "Claims are tested by paired t-tests over seeds at 5 %, corrected by Holm's method within "
    "each group: the article's, the controls, tuned against tuned, the learning rates.",
    "Training costs are relative to standard training, and passes are networks per prediction.",
)
_DOTS = (
    "A dot is the mean over seeds, its whisker one standard error, and the vertical line marks the "
    "first method. Further right is better for accuracy, further left for NLL and ECE; every panel has "
    "its own scale."
)
_ALONG = (
    "Left, accuracy of single networks on a path, its marker the midpoint that is deployed; horizontal "
    "lines are methods without a path. Right, every method's deployed prediction. Bands are one "
    "standard error, and axes do not start at 0."
)
# In order, each picture's title, what is seen (for those who can't), how to read it.
_CAPTIONS = {
    "fig1": (
        "Figure 1: subspaces in the landscape",
        "Planes through trained networks with the loss as colour.",
        "Real slices of the loss of the first seed, with what was trained drawn on them, and beside the "
        "line an independently trained network.",
    ),
    "fig2": (
        "Figure 2: the plane through a trained triangle",
        "Accuracy and loss as colours over a plane with a triangle.",
        "Distances are L2, of weights. Above, means over the grid inside the triangle, and outside it.",
    ),
    "fig7": ("Figure 7: accuracy along the paths, wrong labels", "Curves and dots.", _ALONG),
    "fig3": ("Figure 3: accuracy along the paths, clean labels", "Curves and dots.", _ALONG),
    "fig4": (
        "Figure 4: number of endpoints",
        "Lines with error bars against the number of endpoints.",
        "Midpoints of simplexes, beside averages of as many models and the matched control. Error bars "
        "are one standard error.",
    ),
    "fig5": (
        "Figure 5: calibration",
        "Dots with whiskers.",
        _DOTS + " Scaled: after temperature scaling fitted on validation images.",
    ),
    "fig6": (
        "Figure 6: snow",
        "Lines of accuracy against the severity of snow.",
        "Test images corrupted by snow, {snow}; trained with clean labels. The published constants of "
        "snow do not grow in every respect, so severity 2 may be harder than 3. Error bars are one "
        "standard error.",
    ),
    "learning_rate": (
        "The learning rate of a subspace",
        "Dots with whiskers.",
        "Lines at standard training's learning rate, with which the midpoint of two networks moves at "
        f"half of it, and at twice that (lr x m). {_DOTS}",
    ),
    "corruptions": (
        "All corruptions of the benchmark",
        "Dots with whiskers.",
        "Mean error over all corruptions and severities of the midpoints, and relative to standard "
        "training's: lower is better. A dot is the mean over seeds, its whisker one standard error.",
    ),
    "rivals": ("Every rival", "Dots with whiskers.", _DOTS),
    "tuned": ("Tuned against tuned", "Dots with whiskers.", _DOTS),
    "curvature": (
        "Curvature along the path",
        "Lines of the largest eigenvalue of the Hessian along each path.",
        "Of the training loss, as it is, and filter-normalised. The first also falls as weights grow, "
        "which batch norm leaves free, so compare networks by the second.",
    ),
    "reliability": (
        "Calibration in bins",
        "Reliability diagrams, one per method.",
        f"{BINS} All seeds are pooled first, so that the ECE written here is at most the mean ECE in "
        "the table.",
    ),
    "selection": (
        "Which predictions to trust",
        "Curves of risk against coverage, and dots of AUROC for foreign images.",
        "Left, the share of errors among the most confident predictions, by how many are kept; lower is "
        "better. Right, how well confidence tells test images from images of no class: further right is "
        "better, 50 is chance, and below 50 foreign images get more confidence than test images. Bands "
        "and whiskers are one standard error.",
    ),
}


def suite_page(metrics: Metrics, pictures: Mapping[str, bytes]) -> str:
    """One HTML page of a suite and of PNG files by their names; parts that are missing are left out."""
    config = metrics.get("config", {})
    name = " ".join(dict.fromkeys((config.get("suite", ""), config.get("scale", ""))))
    title = f"Subspaces of networks and their rivals: {name}"
    evaluation = config.get("run", {}).get("evaluation", {})
    source = evaluation.get("corruption_source", "generated")
    generated = "made by this project and not the official files"
    snow = generated if source == "generated" else f"of {source}"
    rows, parts = tables.of_rows(metrics.get("table", ())), {}
    for figure in filter(pictures.__contains__, _CAPTIONS):
        heading, alt, how = _CAPTIONS[figure]
        said = escape(_headline(figure, metrics))
        headline = f'<p class="headline">{said}</p>' if said else ""
        picture = document.figure(pictures[figure], "", alt, how.replace("{snow}", snow))
        parts[figure] = (heading, headline + picture)
    parts |= {
        "claims": ("What holds", _claims(metrics)),
        "tables": ("Tables", document.folded(_ROWS, document.table(_ROWS, *rows))),
        "terms": ("What the words mean", "".join(f"<p>{escape(term)}</p>" for term in _TERMS)),
        "failed": (
            "Runs that failed",
            _list(f"{found['id']}: {found['error']}" for found in metrics.get("failed", ())),
        ),
        "missing": ("Runs that are missing", _list(metrics.get("missing", ()))),
    }
    parts = {part: found for part, found in parts.items() if found[1]}
    links = "".join(
        f'<li><a href="#{n}">{escape(title)}</a></li>' for n, (title, _) in parts.items()
    )
    body = [
        f"<h1>{escape(title)}</h1>",
        f"<p>{escape(_lead(metrics, name))}</p>",
        f'<nav aria-label="Contents"><ul>{links}</ul></nav>',
        *(document.section(part, *found) for part, found in parts.items()),
        document.provenance(metrics.get("provenance", {}), config),
    ]
    return document.document(title, body)


def _lead(metrics: Metrics, name: str) -> str:
    """What the suite is, how much was run, and where the numbers are."""
    runs = metrics.get("provenance", {}).get("num_runs", 0)
    seeds = {run["seed"] for run in metrics.get("runs", ()) if run["setting"] == "article"}
    counts = (
        f"The suite has {runs:,} runs over {len(seeds)} seeds; values are means over the seeds."
    )
    where = "All numbers are in metrics.json and table.md beside this page."
    return f"{_INTRODUCTIONS.get(name, '')} {counts if runs else ''} {where}"


def _claims(metrics: Metrics) -> str:
    """The counts, and folded below them every test, what each subspace gains, what was chosen."""
    found = {
        "Every claim with its test": tables.of_claims(claims.from_json(metrics.get("claims", ()))),
        "What each subspace gains (more is better)": tables.of_gains(metrics),
    }
    if not any(table.cells for table in found.values()):
        return ""
    folded = [document.folded(name, document.table(name, *table)) for name, table in found.items()]
    folded.append(document.folded("What was chosen", _list(tables.chosen_said(metrics))))
    return f"<p>{escape(metrics.get('counts', ''))}</p>{''.join(folded)}"


def _list(sentences: Iterable[str]) -> str:
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    return f"<ul>{items}</ul>" if items else ""


def _headline(figure: str, metrics: Metrics) -> str:
    """Of comparisons that of the noisiest labels, with standard training if there is one."""
    verdicts = [
        verdict
        for verdict in claims.from_json(metrics.get("claims", ()))
        if verdict.claim.figure == figure and verdict.difference is not None
    ]
    if figure == "rivals":
        return _best(metrics)
    if figure == "fig4" and verdicts:
        agree = [verdict.outcome for verdict in verdicts].count(claims.AGREE)
        than = "than an average of as many models"
        share = wording.percent(agree / len(verdicts))
        return f"Simplexes are significantly more accurate {than} in {share} of the comparisons."
    metric = _COMPARED.get(figure, "accuracy")
    found = [verdict for verdict in verdicts if verdict.claim.metric == metric]

    def rank(verdict):
        ours, theirs = verdict.claim.ours[0], verdict.claim.theirs[0]
        place = _LINES.index(ours) if ours in _LINES else len(_LINES)
        return theirs != "standard", -verdict.claim.label_noise, place

    return claims.plain(min(found, key=rank)) if found else _HEADLINES.get(figure, "")


def _best(metrics: Metrics) -> str:
    """Of the single deployed networks by the article's recipe, with the noisiest labels."""
    rows = [row for row in metrics.get("table", ()) if row["setting"] == "article"]
    noise = max((row["label_noise"] for row in rows), default=0.0)
    means = {
        row["method"]: row["accuracy"]["mean"]
        for row in rows
        if row["inference_passes"] == 1
        and (row["place"], row["label_noise"]) == ("midpoint", noise)
        and row.get("accuracy", {}).get("mean") is not None
    }
    if not means:
        return ""
    best = max(means, key=means.__getitem__)
    name, accuracy = claims.side_said(PRODUCTS[best]), 100 * means[best]
    start = f"With {wording.kind_of_labels(noise)}, the most accurate single network"
    return f"{start} is {name}, at {accuracy:.1f} %."
