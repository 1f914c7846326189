"""The list of commands: `python -m experiments`."""

import difflib
import sys

from experiments.system import cli

COMMANDS = {
    "doctor": "is all in order? Versions, devices, memory, data and a run's folder, and what mends them",
    "cifar": "trains and evaluates one run on CIFAR-10 or CIFAR-100",
    "tiny_imagenet": "the same on Tiny-ImageNet",
    "imagenet": "the same on ImageNet",
    "plane": "draws the loss around the networks of a finished run into its report",
    "export": "writes one network of a finished run as an ordinary checkpoint, with a model card",
    "import_weights": "makes a start for training from weights that PyTorch trained",
    "reproduce": "trains what the article's figures compare, draws them and tests every claim",
    "markdown": "prints the results of a suite as Markdown tables",
    "prepare": "lays CIFAR out the way TensorFlow Datasets reads it, without TensorFlow",
}

_SUITES = ("reproduce digits", "reproduce cifar10")  # whose name one may take for a command


def main(arguments: list[str]) -> int:
    """Prints the commands; returns 2, and says what is meant, if something else was asked for."""
    if arguments and arguments[0] not in ("-h", "--help"):
        return cli.fail(_meant(*arguments))
    print("The commands, each run as `python -m experiments.NAME`; --help says more of one.\n")
    for name, sentence in COMMANDS.items():
        print(f"  {name:14}  {sentence}")
    print("\nStart with `python -m experiments.doctor`, then the README.")
    return 0


def _meant(name: str, *rest: str) -> str:
    """That an argument is no command, and which command is like it."""
    known = {command.split()[-1]: command for command in (*COMMANDS, *_SUITES)}
    if near := difflib.get_close_matches(name, known, n=1):
        command = " ".join(["python -m", f"experiments.{known[near[0]]}", *rest])
        return f"`python -m experiments` has no command {name!r}, did you mean `{command}`?"
    return f"`python -m experiments` has no command {name!r}; without arguments it lists all."


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
