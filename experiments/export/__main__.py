"""Export one network of a finished run as an ordinary checkpoint with a model card.

The batch-norm statistics of the point are measured anew on training images, as evaluation does, and
its test metrics too. What is written is read by a fresh process without this project, and its logits
are compared; on a mismatch nothing is kept.

points:
  midpoint             the one to deploy, and the default; of a single network, that network
  0.3                  of a line or curve: from 0, its first endpoint, to 1, its last
  0.2,0.3,0.5          of a simplex: a weight for each endpoint; 1/3,1/3,1/3 works too
  best                 the evaluated point of lowest validation NLL
  endpoint_0           any other point that has a name in the run's report
Write --point=-0.1,0.6,0.5 with "=" if the first number is negative (see --allow_outside).

examples:
  python -m experiments.export runs/line
  python -m experiments.export runs/line --point best --format safetensors --output line-best
  python -m experiments.export runs/simplex --point 0.2,0.3,0.5 --format npz --int8
  python -m experiments.export runs/line --format onnx --license apache-2.0
"""

import functools
import signal
import sys
from collections.abc import Sequence

from experiments.export import formats
from experiments.export.export import export
from experiments.system import cli, xla


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns its exit code."""
    parser = cli.parser("experiments.export", __doc__)
    add, switch = parser.add_argument, functools.partial(parser.add_argument, action="store_true")
    add("workdir", metavar="WORKDIR", help="folder of a finished run")
    add("--point", default="midpoint", help="which network; see above")
    add("--format", default="orbax", choices=list(formats.FORMATS), help="default: %(default)s")
    add("--output", default="", help="folder to make; default: WORKDIR/export/POINT-FORMAT")
    switch("--int8", help="keep kernels as int8 numbers")
    switch("--allow_outside", help="allow points outside of what was trained")
    add("--license", default="unknown", help="of the weights, as hubs name it, such as apache-2.0")
    add("--data_dir", default="", help="where the run's data are, if they moved")
    switch("--overwrite", help="replace an export that is in the way")
    options = parser.parse_args(argv)
    xla.configure()
    # As Ctrl-C, so that nothing is left behind.
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return cli.exit_code(functools.partial(export, options))
    finally:
        signal.signal(signal.SIGTERM, previous)


if __name__ == "__main__":
    sys.exit(main())
