"""The list of commands: `python -m benchmarks`."""

from pathlib import Path

from experiments import commands

if __name__ == "__main__":
    print(commands.table("benchmarks", Path(__file__).parent))
