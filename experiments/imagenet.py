"""ImageNet by the article's recipe; see `python -m experiments.imagenet --help`."""

import sys

from experiments.system import launch

DESCRIPTION = """Trains a line, curve or simplex of networks, or one network, on ImageNet.

    python -m experiments.imagenet --config experiments/configs/imagenet.py:METHOD \\
        --config.data_dir=imagenet --workdir W

METHOD as for experiments.cifar. The data set is a folder with train/<class>/*.JPEG and
val/<class>/*.JPEG, or the data folder of TFDS with imagenet2012 as array records; other data sets
of that layout need --config.num_classes. --config.model.name=resnet50 is the smaller network,
--config.loader.num_workers=N decodes in N processes. The same command resumes an interrupted run;
SIGTERM and Ctrl-C save before they stop."""


def main(argv: list[str] | None = None, **given) -> int:
    """Runs the command; returns its exit code. `log=` is called after every epoch."""
    from experiments.runs import job  # imports JAX, which processes that decode have no need of

    return job.command("experiments.imagenet", DESCRIPTION, "imagenet", argv, **given)


if __name__ == "__main__":
    launch.with_tuned_memory()
    sys.exit(main())
