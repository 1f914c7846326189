"""The page of a suite: its figures, each with what it shows, and folded below its claims and tables."""

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from experiments.report import document, headlines
from experiments.results import claims, tables
from experiments.results.wording import labels_said

Metrics = Mapping[str, Any]

# What each suite is, by its name and scale.
_INTRODUCTIONS = {
    "digits": "Small convolutional networks on scikit-learn's digits, which show how the methods behave "
    "and do not settle the article's claims.",
    "cifar10 small": "ResNet-8 of width 8 on 10,000 images of CIFAR-10: a small-scale version, whose "
    "numbers are not the article's.",
    "cifar10 full": "cResNet20 on CIFAR-10 by the article's protocol, but for 5,000 training images "
    "that are held out for choices.",
    "tiny_imagenet full": "ResNet18 on Tiny-ImageNet by the article's protocol, but for the training "
    "images that are held out for choices.",
}
# What the words on the page mean.
_TERMS = (
    "A line, curve or simplex of networks is trained at random points between its endpoints, and its "
    "midpoint is the network to deploy.",
    "Standard (matched) is ordinary training whose steps are those of a midpoint: the learning rate is "
    "divided by the number of endpoints, the weight decay multiplied by it, and it starts at a "
    "midpoint. A subspace differs from it in where gradients are taken, and by the cosine penalty.",
    "Wrong labels replace true ones in the training images alone, and are never the true ones.",
    "Article setting: the article's recipe for all methods. Tuned setting: learning rate and weight "
    "decay chosen for each method by accuracy on validation images with true labels.",
    "Claims are tested by paired t-tests over seeds at 5 %, corrected by Holm's method within each of "
    "three groups: the article's, the controls, tuned against tuned. Seeds vary initialisation, "
    "batches and wrong labels, not the test images.",
    "Training costs are relative to standard training, inference costs to one network.",
)
# The order of the figures; those that are not here come after.
_ORDER = ("fig1", "fig2", "fig7", "fig3", "fig4", "fig5", "fig6", "rivals", "tuned", "curvature")
# How each picture is read: its title, what is seen (for those who can't), how to read it.
_DOTS = (
    "A dot is the mean over seeds, its whisker one standard error, and the vertical line marks the "
    "first method. Further right is better for accuracy, further left for NLL and ECE; every panel has "
    "its own scale."
)
_ALONG = (
    "Left, each curve is the accuracy of single networks on a path, a mean over seeds, its marker the "
    "midpoint that is deployed; horizontal lines are methods without a path, and bands are one "
    "standard error. Right, every method's deployed prediction. The axes do not start at 0."
)
_CAPTIONS = {
    "fig1": (
        "Figure 1: subspaces in the landscape",
        "Planes through trained networks with the loss as colour.",
        "Real two-parameter slices of the loss of the first seed, with what was trained drawn on them, "
        "and beside the line an independently trained network.",
    ),
    "fig2": (
        "Figure 2: the plane through a trained triangle",
        "Accuracy and loss as colours over a plane with a triangle.",
        "Batch-norm statistics are recalibrated at every point; distances are L2, of weights. "
        "Above, means over the grid inside the triangle, and over the rest of the square.",
    ),
    "fig3": ("Figure 3: accuracy along the paths, clean labels", "Curves and dots.", _ALONG),
    "fig4": (
        "Figure 4: number of endpoints",
        "Lines with error bars against the number of endpoints.",
        "Midpoint accuracy against the number of endpoints of a simplex, beside averages of as many "
        "models and the matched control; sizes that were not trained break the lines. With one, all of "
        "them are the same standard training. Error bars are one standard error.",
    ),
    "fig5": (
        "Figure 5: calibration",
        "Dots with whiskers.",
        _DOTS + " Scaled: after temperature scaling fitted on validation images.",
    ),
    "fig6": (
        "Figure 6: snow",
        "Lines of accuracy against the severity of snow.",
        "Test images corrupted by snow, {snow}; trained with clean labels, batch-norm statistics of "
        "clean images. The published constants of snow do not grow in every respect, so severity 2 may "
        "be harder than 3. Error bars are one standard error.",
    ),
    "fig7": ("Figure 7: accuracy along the paths, wrong labels", "Curves and dots.", _ALONG),
    "rivals": ("Every rival", "Dots with whiskers.", _DOTS),
    "tuned": ("Tuned against tuned", "Dots with whiskers.", _DOTS),
    "curvature": (
        "Curvature along the path",
        "Lines of the largest eigenvalue of the Hessian along each path.",
        "Of the training loss, with the statistics of the batch: as it is, and filter-normalised. As it "
        "is, it also falls as weights grow, which batch norm leaves free, so compare networks by the "
        "filter-normalised one. Right, the test error.",
    ),
    "reliability": (
        "Calibration in bins",
        "Reliability diagrams, one per method.",
        "A bar is the accuracy of the predictions of one range of confidence, the hatched box its "
        "distance to their mean confidence: bars below the diagonal are overconfident, bars above "
        "it underconfident. The grey strip is the share of predictions in each bin. All seeds are "
        "pooled first, so that the ECE written here is at most the mean ECE in the table.",
    ),
    "selection": (
        "Which predictions to trust",
        "Curves of risk against coverage, and dots of AUROC for foreign images.",
        "Left, the share of errors among the most confident predictions, by how many are kept; lower is "
        "better. Right, the area under the ROC curve of telling test images from images of no class by "
        "the confidence of the prediction; further right is better, 50 is chance, and below it images "
        "of no class get more confidence than test images. Means over seeds; bands and whiskers are "
        "one standard error.",
    ),
}


def suite_page(metrics: Metrics, pictures: Mapping[str, bytes]) -> str:
    """The page of a suite; see `pages.page`."""
    config = metrics.get("config", {})
    title = f"Subspaces of networks and their rivals: {_name(config)}"
    captions, said = _captions(config), headlines.of(metrics)
    order = {name: i for i, name in enumerate(_ORDER)}
    names = sorted(pictures, key=lambda name: order.get(name, len(order)))
    parts = {
        name: (
            captions.get(name, (name,))[0],
            _said(said.get(name, ""))
            + document.figure(pictures[name], "", *captions.get(name, (name,) * 3)[1:]),
        )
        for name in names
    }
    parts |= {
        "claims": ("What holds", _claims(metrics)),
        "tables": ("Tables", _tables(metrics)),
        "terms": ("What the words mean", "".join(f"<p>{escape(term)}</p>" for term in _TERMS)),
        "failed": ("Runs that failed", _failed(metrics)),
    }
    parts = {name: part for name, part in parts.items() if part[1]}
    links = "".join(
        f'<li><a href="#{n}">{escape(heading)}</a></li>' for n, (heading, _) in parts.items()
    )
    body = [
        f"<h1>{escape(title)}</h1>",
        f"<p>{escape(_lead(metrics))}</p>",
        f'<nav aria-label="Contents"><ul>{links}</ul></nav>',
        *(
            f'<section id="{name}"><h2>{escape(heading)}</h2>{content}</section>'
            for name, (heading, content) in parts.items()
        ),
        document.provenance(metrics.get("provenance", {}), config),
    ]
    return document.document(title, body)


def _said(sentence: str) -> str:
    return f'<p class="headline">{escape(sentence)}</p>' if sentence else ""


def _name(config: Metrics) -> str:
    return " ".join(dict.fromkeys((config.get("suite", ""), config.get("scale", ""))))


def _lead(metrics: Metrics) -> str:
    """What the suite is, how much was run, and where the numbers are."""
    record = metrics.get("provenance", {})
    runs, seeds = record.get("num_runs"), len(record.get("seeds", ()))
    counts = (
        f"The suite has {runs:,} runs over {seeds} seeds, and values are means over the seeds."
        if runs
        else ""
    )
    where = "All numbers are in metrics.json and table.md beside this page."
    return " ".join(
        filter(None, [_INTRODUCTIONS.get(_name(metrics.get("config", {}))), counts, where])
    )


def _captions(config: Metrics) -> dict[str, tuple[str, ...]]:
    """The captions, with where corrupted images come from."""
    evaluation = config.get("run", {}).get("evaluation", {})
    source = evaluation.get("corruption_source", "generated")
    made = "made by this project and not the official files"
    if config.get("suite") == "digits":
        made += " (at 32 x 32 pixels in colour, then shrunk)"
    snow = made if source == "generated" else f"of {source}"
    return {
        name: tuple(part.format(snow=snow) for part in caption)
        for name, caption in _CAPTIONS.items()
    }


def _claims(metrics: Metrics) -> str:
    """The counts, and folded below them every test, what each subspace gains, what was chosen."""
    verdicts = claims.from_json(metrics.get("claims", ()))
    rows = [list(claims.cells(v)) for v in verdicts if v.outcome != claims.NOT_RUN]
    if not rows:
        return ""
    parts = {
        "Every claim with its test": (claims.HEADER, rows, 2),
        "What each subspace gains (more is better)": tables.gains_of(metrics),
    }
    folded = [
        document.folded(name, document.table(name, *part))
        for name, part in parts.items()
        if part[1]
    ]
    folded.append(document.folded("What was chosen", _list(tables.chosen_said(metrics))))
    return f"<p>{escape(metrics.get('counts', ''))}</p>{''.join(folded)}"


def _list(sentences: Iterable[str]) -> str:
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    return f"<ul>{items}</ul>" if items else ""


def _failed(metrics: Metrics) -> str:
    return _list(f"{found['id']}: {found['error']}" for found in metrics.get("failed", ()))


def _tables(metrics: Metrics) -> str:
    """One folded table per setting and label noise."""
    groups: dict[tuple[str, float], list[Metrics]] = {}
    for row in metrics.get("table", ()):
        rest = {k: v for k, v in row.items() if k not in ("setting", "label_noise")}
        groups.setdefault((row["setting"], row["label_noise"]), []).append(rest)
    note = "<p>Means ± one standard error over seeds. NLL and ECE: lower is better.</p>"
    parts = [note] if groups else []
    for (setting, noise), rows in groups.items():
        title = f"{setting.capitalize()} setting, {labels_said(noise)}"
        parts.append(document.folded(title, document.table(title, *tables.cells_of(rows))))
    return "".join(parts)
