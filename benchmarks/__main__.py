"""The list of commands: `python -m benchmarks`."""

COMMANDS = {
    "run": "training, evaluation and start-up beside PyTorch, in one run",
    "imagenet_steps": "steps of ImageNet's networks: images a second, what a line adds",
    "input_pipeline": "ImageNet's input pipeline beside the bare decoder, and what training waits",
    "scaling": "memory and time of a training step on meshes of devices",
    "soak": "whether runs survive kills, signals, full disks and damaged files",
    "corruptions": "how far generated corruptions are from published ones of the same images",
}

if __name__ == "__main__":
    print("The commands, each run as `python -m benchmarks.NAME`; --help says more of one.\n")
    print("\n".join(f"  {name:14}  {sentence}" for name, sentence in COMMANDS.items()))
