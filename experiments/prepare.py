"""Lays CIFAR out the way TensorFlow Datasets reads it, without TensorFlow; see `data.tfds`."""

import logging
import sys
from collections.abc import Sequence

from experiments.data.tfds import BUILDERS, is_no_chatter, prepare
from experiments.system import cli

DESCRIPTION = """Downloads CIFAR and lays it out for TensorFlow Datasets, without TensorFlow.

    python -m experiments.prepare cifar10 --data_dir ~/data
    python -m experiments.cifar --config.data_dir=$HOME/data --workdir runs/line

About 170 MB come over the network, or from an archive in DATA_DIR/downloads/manual; its SHA-256 is
verified. Copy the folder to machines without a network. What is done already is not done again."""


# TFDS warns of every folder that is not prepared yet and of a missing OpenCV.
logging.getLogger("absl").addFilter(is_no_chatter)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns its exit code."""
    parser = cli.parser("experiments.prepare", DESCRIPTION)
    parser.add_argument("name", choices=sorted(BUILDERS), help="which data set")
    where = "where to put it; default: $TFDS_DATA_DIR or ~/tensorflow_datasets"
    parser.add_argument("--data_dir", default="", help=where)
    options = parser.parse_args(argv)
    return cli.exit_code(lambda: print(f"ready: {prepare(options.name, options.data_dir)}"))


if __name__ == "__main__":
    sys.exit(main())
