"""CIFAR-10 and CIFAR-100 by the article's recipe; see `python -m experiments.cifar --help`."""

import sys

from experiments.system import launch

DESCRIPTION = """Trains a line, curve or simplex of networks, or one network, on CIFAR-10 or CIFAR-100.

    python -m experiments.cifar --config experiments/configs/cifar10.py:METHOD --workdir W

(cifar100.py for CIFAR-100). METHOD: standard, standard_matched, line, layerwise_line, curve, simplex_3,
ema, swa_cyclic_5, sam, dropout, ... (an unknown one is answered by the whole list). The same
command resumes an interrupted run; SIGTERM and Ctrl-C save before they
stop. The data set is downloaded and prepared if --config.data_dir does not hold it.
With --quick a first look takes a minute."""


def main(argv: list[str] | None = None, **given) -> int:
    """Runs the command; returns its exit code. `log=` is called after every epoch."""
    from experiments.runs import job  # imports JAX

    return job.command("experiments.cifar", DESCRIPTION, "cifar10", argv, **given)


if __name__ == "__main__":
    launch.with_tuned_memory()
    sys.exit(main())
