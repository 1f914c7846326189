"""`experiments.cifar`, noting in a file how far it comes; `benchmarks.soak` starts and kills it.

    python -m benchmarks.soaked NOTES ARGUMENTS...

Lines of the file, each ending with the seconds of a clock that all processes of a machine share:
`from STEP` where training starts, `step STEP` for every call that was dispatched, `save STEP` and `saved
STEP` where training turns to a checkpoint and where it goes on, `evaluate STEP` and `report STEP`.
"""

import sys
import time

from experiments import cifar
from experiments.evaluation import evaluate
from experiments.runs.checkpoint import Checkpoints
from experiments.training import steps


def main() -> int:
    """Runs the command; returns its exit code."""
    path, *arguments = sys.argv[1:]
    fit, save, evaluated = steps.fit, Checkpoints.save, evaluate.evaluate
    with open(path, "a", buffering=1) as notes:

        def note(kind, step):
            notes.write(f"{kind} {step} {time.monotonic()}\n")

        def noted_fit(run, state, history, *rest):
            note("from", int(state.step))
            for latest in fit(run, state, history, *rest):
                note("step", history.num_dispatched)
                yield latest

        def noted_save(checkpoints, step, *rest):
            note("save", step)
            save(checkpoints, step, *rest)
            note("saved", step)

        def noted_evaluate(run, *rest):
            note("evaluate", run.program.num_steps)
            found = evaluated(run, *rest)
            note("report", run.program.num_steps)
            return found

        steps.fit, Checkpoints.save, evaluate.evaluate = noted_fit, noted_save, noted_evaluate
        return cifar.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
