"""`experiments.cifar`, noting in a file how far it comes; `benchmarks.soak` starts and kills it.

    python -m benchmarks.soaked NOTES ARGUMENTS...

Lines of the file: `from STEP` where training starts, `step STEP` for every step that was dispatched, and
`save STEP` for every checkpoint that was begun.
"""

import sys

from experiments import cifar, train
from experiments.checkpoint import Checkpoints


def main() -> int:
    """Runs the command; returns its exit code."""
    path, *arguments = sys.argv[1:]
    fit, save = train.fit, Checkpoints.save
    with open(path, "a", buffering=1) as notes:

        def noted_fit(run, state, history, call=None):
            notes.write(f"from {int(state.step)}\n")
            for latest in fit(run, state, history, call):
                notes.write(f"step {history.num_dispatched}\n")
                yield latest

        def noted_save(checkpoints, step, *rest):
            notes.write(f"save {step}\n")
            save(checkpoints, step, *rest)

        train.fit, Checkpoints.save = noted_fit, noted_save
        return cifar.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
