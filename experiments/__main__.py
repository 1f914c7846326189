"""The list of commands: `python -m experiments`."""

from experiments import commands

if __name__ == "__main__":
    print(commands.table("experiments", commands.FOLDER))
    print("\nStart with `python -m experiments.doctor`, then the README.")
