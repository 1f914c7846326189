"""The fields that every experiment's config has. Data sets' configs set the values.

Comments above values are what `--help` says of them, under the headings that begin with two marks.
"""

import ml_collections

from experiments.configs.recipes import NUM_ENDPOINTS, RECIPES, check_recipe


def base_config(recipe: str) -> ml_collections.ConfigDict:
    """All knobs, with the values that the article gives for CIFAR-10 where it gives any."""
    recipe = check_recipe(recipe)
    kind = RECIPES[recipe].kind
    config = ml_collections.ConfigDict()
    groups = "loader label_noise model optimizer schedule average sharpness subspace evaluation"
    for group in groups.split():
        config[group] = ml_collections.ConfigDict()

    ## Training
    # Passes over the training images, those of the warm-up among them.
    config.num_epochs = 160
    # Images of one step.
    config.batch_size = 128
    # The largest learning rate of SGD.
    config.optimizer.learning_rate = 0.1
    # Of SGD, without dampening.
    config.optimizer.momentum = 0.9
    # On every parameter of every endpoint, batch norm included.
    config.optimizer.weight_decay = 1e-4
    # Epochs in which the learning rate rises to its largest.
    config.optimizer.warmup_epochs = 5
    # Of initialisation, batches, points and dropout.
    config.seed = 0
    # The share of each label that is spread over all classes.
    config.label_smoothing = 0.0

    ## The method
    # The name of the method in tables; it is chosen after the colon of --config.
    config.recipe = recipe
    # The subspace that is trained.
    config.kind = kind
    # Of simplexes and curves; for standard_matched, the number of endpoints that it is matched to.
    config.subspace.num_endpoints = NUM_ENDPOINTS[kind]
    alone = kind in ("standard", "standard_matched", "independent")
    # beta, the factor of the cosine penalty (Eq. 3) of one random pair of endpoints; 0 for none.
    config.subspace.penalty = 0.0 if alone else 1.0
    # Whether the learning rate is that of SGD times the number m of endpoints: the midpoint, which moves
    # by the mean of their steps, then moves at the learning rate of SGD.
    config.subspace.lr_times_m = False
    # Into how many chunks a batch is split, each at its own point (appendix B).
    config.subspace.num_samples = 1
    # Of a complex: the vertices of its simplexes.
    config.subspace.simplexes = ()
    # Of a complex: the factor of the logarithm of its simplexes' volume.
    config.subspace.volume = 0.0
    # Endpoints that are networks trained before, kept as they are.
    config.subspace.given = ()
    # The files that hold these networks, weights.npz of finished runs.
    config.subspace.weights = ()
    # How the learning rate falls after the warm-up.
    config.schedule.name = "cosine"
    # Of all schedules but the first: how many networks are visited.
    config.schedule.num_models = 5
    # What is evaluated in place of the last network: an average of all steps (ema) or of the visited
    # networks (swa), a Gaussian around that (swag), or the visited networks themselves (snapshots).
    config.average.name = "none"
    # Of ema, per step.
    config.average.decay = 0.999
    # Radius of sharpness-aware minimisation; 0 for none.
    config.sharpness.rho = 0.0
    # Whether that radius is relative to the size of each weight, as in ASAM.
    config.sharpness.adaptive = False
    # Where all endpoints start: a weights.npz of one network or of as many as there are endpoints, from
    # a finished run or experiments.import_weights; "": at random. Runs that start from the networks of
    # subspace.weights do so.
    config.init_from = ""
    # The classifier of that file: kept, or new, each endpoint's drawn at random, for other classes.
    config.init_head = "keep"

    ## The network
    # After the second convolution of every block, before the addition.
    config.model.dropout = 0.0
    # Of the activations; bfloat16 is faster on accelerators. Weights, gradients, batch-norm statistics
    # and losses are float32 in both.
    config.model.dtype = "float32"

    ## The data
    # The name of the data set.
    config.dataset = ""
    # Where TFDS keeps its data ("": TFDS_DATA_DIR or ~/tensorflow_datasets), a folder of the images'
    # files, or a file ending in .npz.
    config.data_dir = ""
    # Examples held out of the training split for every choice; 0 in the article.
    config.validation_size = 0
    # Of the training images that are not held out, the first so many in a random order; 0 for all.
    config.train_size = 0
    # Whose mean and standard deviation the pixels' are made 0 and 1 by.
    config.normalization = "none"
    # How training images are varied.
    config.augmentation = "none"
    # The share of training labels that are replaced.
    config.label_noise.rate = 0.0
    # By labels that are never the true one, by any label (the authors' code), or by human labels, such
    # as CIFAR-10N's, from label_noise.file.
    config.label_noise.mode = "uniform_wrong"
    # Of the choice of those labels.
    config.label_noise.seed = 0
    # FILE.npy or FILE.npz:KEY with a label for each training image.
    config.label_noise.file = ""
    # Pixels on a side of the images of ImageNet, whose files have many sizes; 0 elsewhere.
    config.image_size = 0
    # How many classes the data set must have; 0 for any number.
    config.num_classes = 0
    # Training images that can't be decoded (of Tiny-ImageNet's and ImageNet's files) are left out and
    # named, up to so many; with more the run stops, and with a test image that can't be decoded always.
    config.max_corrupt = 10

    ## The evaluation
    # Points along a line or curve, both ends among them.
    config.evaluation.num_points = 21
    # Of a triangle: steps along each side of a grid of points, a multiple of 6 so that the middles of
    # edges and the centre are among them; 6 are 28 points. 0: these and the corners alone.
    config.evaluation.grid_steps = 6
    # Equal-width bins of the calibration errors; 20 in the article.
    config.evaluation.num_bins = 20
    # Images of one prediction.
    config.evaluation.batch_size = 500
    # Images whose moments are pooled at a time when batch-norm statistics are measured.
    config.evaluation.recalibration_batch_size = 128
    # Training images that recalibration passes over; 0 for all.
    config.evaluation.recalibration_examples = 0
    # Whether they are augmented, as in the article.
    config.evaluation.recalibration_augment = True
    # Networks evaluated vectorised together; 1: one after another; 0: chosen, on a CPU 1 and elsewhere
    # by the device's memory.
    config.evaluation.at_once = 0
    # Networks drawn from a complex, and passes of Monte-Carlo dropout.
    config.evaluation.num_samples = 10
    # In suites: epochs between looks at the test set for optimal early stopping, an oracle; 0 for
    # none. The last epoch is looked at too.
    config.evaluation.oracle_epochs = 0
    # Names of the corruptions of the test images.
    config.evaluation.corruptions = ()
    # Where corrupted images come from: "generated", "tfds", or a folder or file of published ones.
    config.evaluation.corruption_source = "generated"
    # How severe they are.
    config.evaluation.severities = (1, 2, 3, 4, 5)
    # Out-of-distribution images to tell from the test images, by name or file.
    config.evaluation.outside = ()

    ## The machine
    # How all devices share a run, as "data=4,endpoint=2": batches split over both, endpoints over the
    # second; "data" alone takes what the other leaves. "": one device. In suites also "run=8": see
    # docs/devices.md.
    config.mesh = ""
    # Steps per compiled call; 0: up to 500 on accelerators, one step on a CPU. Calls end with the epoch.
    config.steps_per_call = 0
    # Seconds between checkpoints; there is always one at the end of training.
    config.checkpoint_seconds = 60.0
    # Of training images that do not fit into memory, those of ImageNet: processes that decode; 0:
    # threads of the process that trains.
    config.loader.num_workers = 0
    # Threads of each process; 0: one per CPU core, at most 16 of all processes together.
    config.loader.num_threads = 0
    # Batches that each process makes ahead, at least; a thread makes one at a time.
    config.loader.prefetch = 2

    config.update_from_flattened_dict(dict(RECIPES[recipe].values))
    return config
