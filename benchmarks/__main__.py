"""The list of commands: `python -m benchmarks`."""

COMMANDS = {
    "run": "training, evaluation and start-up beside PyTorch, in one run",
    "parity": "steps by the article's authors' own code beside ours: by how much they part",
    "accelerator": "the most that a quarter of an hour of a GPU gives, and goes on next time",
    "corruptions": "how far generated corruptions are from published ones of the same images",
    "soak": "whether runs survive kills, signals, full disks and damaged files",
    "scaling": "memory and time of a training step on meshes of devices",
    "input": "ImageNet's input pipeline beside the bare decoder, and what training waits",
}

if __name__ == "__main__":
    print("The commands, each run as `python -m benchmarks.NAME`; --help says more of one.\n")
    print("\n".join(f"  {name:11}  {sentence}" for name, sentence in COMMANDS.items()))
