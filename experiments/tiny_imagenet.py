"""Tiny-ImageNet by the article's recipe; see `python -m experiments.tiny_imagenet --help`."""

import sys

from experiments.system import launch

DESCRIPTION = """Trains a line, curve or simplex of networks, or one network, on Tiny-ImageNet.

    python -m experiments.tiny_imagenet --config experiments/configs/tiny_imagenet.py:METHOD \\
        --config.data_dir=tiny-imagenet-200 --workdir W

METHOD as for experiments.cifar. The data set is its unpacked folder, with all or some of its
classes; --config.model.name=resnet50 is the larger network. The same command resumes an interrupted
run; SIGTERM and Ctrl-C save before they stop."""


def main(argv: list[str] | None = None, **given) -> int:
    """Runs the command; returns its exit code. `log=` is called after every epoch."""
    from experiments.runs import job  # imports JAX

    return job.command("experiments.tiny_imagenet", DESCRIPTION, "tiny_imagenet", argv, **given)


if __name__ == "__main__":
    launch.with_tuned_memory()
    sys.exit(main())
