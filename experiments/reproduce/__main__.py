"""Every figure of the article, and every rival, by one command; see `reproduce.command`."""

import sys

from experiments.system import launch


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit code: 1 if some run failed."""
    from experiments.reproduce import command  # imports JAX

    return command.main(argv)


if __name__ == "__main__":
    launch.with_tuned_memory(threads=True)
    sys.exit(main())
