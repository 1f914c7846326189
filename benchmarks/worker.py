"""A process that does one contestant's work when it is told to; `benchmarks.rounds` starts it.

It reads lines from standard input and answers each with a line of JSON: the seconds that one unit of
work took, how many images it trained on, and the largest memory of the process so far.
"""

import json
import os
import resource
import sys
import time
from types import SimpleNamespace

from benchmarks.contestants import CONTESTANTS, ENVIRONMENTS


def main() -> None:
    """Serves until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is not an answer
    options = SimpleNamespace(**json.loads(sys.argv[1]))
    own_flags = "XLA_FLAGS" in ENVIRONMENTS.get(options.contestant, {})
    if not options.contestant.startswith("PyTorch") and not own_flags:
        from experiments.system import xla

        xla.configure()

    unit = CONTESTANTS[options.contestant](options)
    for _ in sys.stdin:
        begin = time.perf_counter()
        images = unit()
        answer = {
            "seconds": time.perf_counter() - begin,
            "images": images,
            "peak_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        }
        print(json.dumps(answer), file=answers)


if __name__ == "__main__":
    main()
