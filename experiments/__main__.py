"""The list of commands: `python -m experiments`."""

import sys

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


def main(arguments: list[str]) -> int:
    """Prints the commands; returns 2 if something else was asked for."""
    print("The commands, each run as `python -m experiments.NAME`; --help says more of one.\n")
    for name, sentence in COMMANDS.items():
        print(f"  {name:14}  {sentence}")
    print("\nStart with `python -m experiments.doctor`, then the README.")
    if arguments and arguments[0] not in ("-h", "--help"):
        print(f"error: There is no command {' '.join(arguments)!r} here.", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
