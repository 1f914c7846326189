"""Files for the variables of one network: written here, and read by code that needs none of ours.

A network's variables are nested dictionaries of arrays, `{"params": ..., "batch_stats": ...}`. In files
of flat names these are joined by dots: `params.Conv_0.kernel`.
"""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import numpy as np
import orbax.checkpoint as ocp
from flax.traverse_util import flatten_dict

from experiments import network_source


@dataclasses.dataclass(frozen=True)
class Format:
    """A way to keep variables in a file.

    Attributes:
      file: its name; a folder's for Orbax.
      write: `(path, variables, metadata)`.
      load: lines of code that read it as `weights` in the folder that holds it.
      source: `(network, normalization, int8) -> source` of the module that takes them.
      packages: all that a process needs that loads it.
    """

    file: str
    write: Callable[[Path, dict[str, Any], dict[str, str]], None]
    load: tuple[str, ...]
    source: Callable[[nn.Module, str, bool], str]
    packages: tuple[str, ...]


def flat(variables: dict[str, Any]) -> dict[str, np.ndarray]:
    """Arrays by their dotted names.

    Example:
      >>> list(flat({"params": {"Dense_0": {"bias": [0.0]}}}))
      ['params.Dense_0.bias']
    """
    return {name: np.asarray(x) for name, x in flatten_dict(variables, sep=".").items()}


def _write_orbax(path, variables, metadata):
    del metadata  # which is in the card beside it
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path.absolute(), variables)


def _write_safetensors(path, variables, metadata):
    from safetensors.numpy import save_file  # not needed by the other formats

    arrays = {name: np.ascontiguousarray(x) for name, x in flat(variables).items()}
    save_file(arrays, path, metadata=metadata)


def _write_npz(path, variables, metadata):
    np.savez(path, **flat(variables), **{_METADATA: np.array(json.dumps(metadata))})


_METADATA = "metadata"  # of an .npz file, JSON
FORMATS = {
    "orbax": Format(
        "weights",
        _write_orbax,
        (
            "import os",
            "",
            "import numpy as np",
            "import orbax.checkpoint as ocp",
            "from network import logits  # network.py, a Flax module and its input's scale",
            "",
            'weights = ocp.StandardCheckpointer().restore(os.path.abspath("weights"))',
        ),
        network_source.with_flax,
        ("numpy", "jax", "flax", "orbax-checkpoint"),
    ),
    "safetensors": Format(
        "weights.safetensors",
        _write_safetensors,
        (
            "import numpy as np",
            "from network import logits  # network.py, the network in NumPy",
            "from safetensors.numpy import load_file",
            "",
            'weights = load_file("weights.safetensors")',
        ),
        network_source.with_numpy,
        ("numpy", "safetensors"),
    ),
    "npz": Format(
        "weights.npz",
        _write_npz,
        (
            "import numpy as np",
            "from network import logits  # network.py, the network in NumPy",
            "",
            'weights = dict(np.load("weights.npz"))',
        ),
        network_source.with_numpy,
        ("numpy",),
    ),
}


def num_bytes(path: Path) -> int:
    """The size of a file, or of all files of a folder."""
    files = [path] if path.is_file() else [x for x in path.rglob("*") if x.is_file()]
    return sum(x.stat().st_size for x in files)
