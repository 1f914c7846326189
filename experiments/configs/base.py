"""The fields that every experiment's config has. Data sets' configs set the values."""

import ml_collections

from experiments.configs.recipes import RECIPES, check_recipe, default_num_endpoints


def base_config(recipe: str) -> ml_collections.ConfigDict:
    """All knobs, with the values that the article gives for CIFAR-10 where it gives any."""
    recipe = check_recipe(recipe)
    kind = RECIPES[recipe].get("kind", "standard")
    config = ml_collections.ConfigDict()
    # The name of the method in tables, and the subspace that is trained.
    config.recipe = recipe
    config.kind = kind
    config.seed = 0
    config.num_epochs = 160
    config.batch_size = 128
    # Steps per compiled call; 0: up to 500 on accelerators, one step on a CPU. Calls end with the epoch.
    config.steps_per_call = 0
    # How all devices share a run, as "data=4,endpoint=2": batches split over both, endpoints over the
    # second; "data" alone takes what the other leaves. "": one device. In suites also "run=8": see
    # docs/scaling.md.
    config.mesh = ""

    config.dataset = ""
    # Where TFDS keeps its data ("": TFDS_DATA_DIR or ~/tensorflow_datasets), or a file ending in .npz.
    config.data_dir = ""
    # Training images that can't be decoded (of Tiny-ImageNet's and ImageNet's files) are left out and
    # named, up to so many; with more the run stops, and with a test image that can't be decoded always.
    config.max_corrupt = 10
    # Pixels on a side of the images of ImageNet, whose files have many sizes; 0 elsewhere.
    config.image_size = 0
    # How many classes the data set must have; 0 for any number.
    config.num_classes = 0
    # Of the training images that are not held out, the first so many in a random order; 0 for all.
    config.train_size = 0
    # Examples held out of the training split for every choice; 0 in the article.
    config.validation_size = 0
    config.split_seed = 0
    config.normalization = "none"
    config.augmentation = "none"

    # How training images are loaded that do not fit into memory, those of ImageNet.
    config.loader = ml_collections.ConfigDict()
    # Processes that decode; 0: threads of the process that trains.
    config.loader.num_workers = 0
    # Threads of each process; 0: one per CPU core, at most 16 of all processes together.
    config.loader.num_threads = 0
    # Batches that each process makes ahead, at least; a thread makes one at a time.
    config.loader.prefetch = 2

    config.label_noise = ml_collections.ConfigDict()
    # The share of training labels that are replaced, in [0, 1).
    config.label_noise.rate = 0.0
    # "uniform_wrong": never the true label; "uniform_any": may be the true one (the authors' code);
    # "file": human labels, such as CIFAR-10N's, from label_noise.file.
    config.label_noise.mode = "uniform_wrong"
    config.label_noise.seed = 0
    config.label_noise.file = ""

    config.model = ml_collections.ConfigDict()
    # After the second convolution of every block, before the addition.
    config.model.dropout = 0.0
    # Of the activations: "float32", or "bfloat16", faster on accelerators. Weights, gradients,
    # batch-norm statistics and losses are float32 in both.
    config.model.dtype = "float32"

    config.optimizer = ml_collections.ConfigDict()
    config.optimizer.learning_rate = 0.1
    config.optimizer.momentum = 0.9
    # On every parameter of every endpoint, batch norm included.
    config.optimizer.weight_decay = 1e-4
    config.optimizer.warmup_epochs = 5

    config.schedule = ml_collections.ConfigDict()
    # "cosine", "swa_constant", "swa_cyclic", "snapshot" or "fge".
    config.schedule.name = "cosine"
    # Of all but the first: how many networks are visited.
    config.schedule.num_models = 5
    # The learning rate of averaging, as a share of the largest one; 0.05 of 0.1 in the article.
    config.schedule.low_factor = 0.5

    config.average = ml_collections.ConfigDict()
    # "none", "ema" (of all steps), "swa" (mean of the visited networks), "swag" (a Gaussian around
    # it) or "snapshots" (the visited networks themselves). It is evaluated in place of the last.
    config.average.name = "none"
    # Of "ema", per step.
    config.average.decay = 0.999
    # Of "swag": deviations that are kept, and networks that are drawn.
    config.average.rank = 10
    config.average.num_samples = 5

    config.sharpness = ml_collections.ConfigDict()
    # Radius of sharpness-aware minimisation; 0 for none.
    config.sharpness.rho = 0.0
    # ASAM, whose radius is relative to the size of each weight.
    config.sharpness.adaptive = False

    config.subspace = ml_collections.ConfigDict()
    # Of simplexes and curves; for standard_matched, the number of endpoints that it is matched to.
    config.subspace.num_endpoints = default_num_endpoints(kind)
    # beta, the factor of the cosine penalty (Eq. 3); 0 for none.
    config.subspace.penalty = 1.0 if default_num_endpoints(kind) > 1 else 0.0
    if kind in ("standard_matched", "independent"):
        config.subspace.penalty = 0.0
    # "random": one random pair of endpoints per step, as in the article; "all": their mean.
    config.subspace.penalty_pairs = "random"
    # Into how many chunks a batch is split, each at its own point (appendix B).
    config.subspace.num_samples = 1
    # Of a complex: the vertices of its simplexes, and the factor of the logarithm of their volume.
    config.subspace.simplexes = ()
    config.subspace.volume = 0.0
    # Endpoints that are networks trained before, kept as they are, and the files that hold them.
    config.subspace.given = ()
    config.subspace.weights = ()

    config.label_smoothing = 0.0

    # Where all endpoints start: a weights.npz of one network or of as many as there are endpoints, from
    # a finished run or experiments.import_weights; "": at random. Runs that start from the networks of
    # subspace.weights do so.
    config.init_from = ""
    # The classifier of that file: "keep", or "new", each endpoint's drawn at random, for other classes.
    config.init_head = "keep"

    config.evaluation = ml_collections.ConfigDict()
    config.evaluation.num_points = 21
    # Of a triangle: steps along each side of a grid of points, a multiple of 6 so that the middles of
    # edges and the centre are among them; 6 are 28 points. 0: these and the corners alone.
    config.evaluation.grid_steps = 6
    # Equal-width bins of the calibration errors; 20 in the article.
    config.evaluation.num_bins = 20
    config.evaluation.batch_size = 500
    config.evaluation.recalibration_batch_size = 128
    # Training images that recalibration passes over; 0 for all.
    config.evaluation.recalibration_examples = 0
    # The article recalibrates on augmented images.
    config.evaluation.recalibration_augment = True
    # Networks evaluated vectorised together; 0: one after another (right on a CPU).
    config.evaluation.at_once = 0
    # Networks drawn from a complex, and passes of Monte-Carlo dropout.
    config.evaluation.num_samples = 10
    # In suites: epochs between looks at the test set for optimal early stopping, an oracle; 0 for
    # none. The last epoch is looked at too.
    config.evaluation.oracle_epochs = 0
    # Corruptions of the test images, where they come from ("generated" or a path), how severe.
    config.evaluation.corruptions = ()
    config.evaluation.corruption_source = "generated"
    config.evaluation.severities = (1, 2, 3, 4, 5)
    # Measure batch-norm statistics on the corrupted images too, as a result of its own.
    config.evaluation.adapt_to_corruption = False
    # Out-of-distribution images to tell from the test images, by name or file.
    config.evaluation.outside = ()

    # Seconds between checkpoints; there is always one at the end of training.
    config.checkpoint_seconds = 60.0
    config.update_from_flattened_dict(RECIPES[recipe])
    return config
