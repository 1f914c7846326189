"""Files of PyTorch's tensors by name: safetensors, .npz, and state dicts that PyTorch itself reads."""

import os
import pickle
import sys
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from experiments.system import files
from experiments.system.errors import UserError

SUFFIXES = (".safetensors", ".npz", ".pt", ".pth", ".bin", ".tar")
# Under which a checkpoint has its tensors; the authors of the article have a list of them.
_INSIDE = ("state_dicts", "state_dict", "model_state_dict", "model")
_COUNTER = "n_averaged"  # what AveragedModel adds


def read(path: str | os.PathLike[str]) -> list[dict[str, np.ndarray]]:
    """The tensors by name of every network of a file, of which no code is run."""
    path = Path(path).expanduser()
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path} ends in {path.suffix!r}; use a file in {', '.join(SUFFIXES)}.")
    if not path.is_file():
        raise UserError(f"{path} is no file; give the path of a file of weights.")
    if path.suffix == ".npz":
        with files.open_npz(path, "tensors by name") as arrays:
            found = [{name: arrays[name] for name in arrays.files}]
    elif path.suffix == ".safetensors":
        found = [_safetensors(path)]
    else:
        found = _state_dicts(path)
    return [_unwrapped(tensors, path) for tensors in found]


def _safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise UserError(
            f"{path} can't be read as safetensors ({reason}); get or write it anew."
        ) from error


def _state_dicts(path: Path) -> list[dict[str, np.ndarray]]:
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"{path} needs PyTorch to be read, which is not installed; install it, or convert the file "
            "where PyTorch is with safetensors.torch.save_file(torch.load(FILE, weights_only=True), "
            f'"{path.stem}.safetensors").'
        ) from error
    try:
        value = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise UserError(
            f"{path} can't be read as plain tensors (torch.load with weights_only=True refuses it); "
            "save the state dict alone where you trust the file: torch.save(model.state_dict(), FILE)."
        ) from error
    for name in _INSIDE:
        if isinstance(value, dict) and isinstance(value.get(name), dict | list):
            value = value[name]
            break
    dicts = value if isinstance(value, list) else [value]
    if not dicts or not all(
        isinstance(entry, dict)
        and entry
        and all(isinstance(tensor, torch.Tensor) for tensor in entry.values())
        for entry in dicts
    ):
        raise UserError(
            f"{path} holds no state dict; save one with torch.save(model.state_dict(), FILE), at the "
            f"top or under {', '.join(map(repr, _INSIDE))}."
        )
    return [
        {
            name: (tensor.float() if tensor.is_floating_point() else tensor).detach().numpy()
            for name, tensor in entry.items()
        }
        for entry in dicts
    ]


def _unwrapped(tensors: dict[str, np.ndarray], path: Path) -> dict[str, np.ndarray]:
    """The tensors without what wrappers of modules add to their names, which is said.

    torch.compile and FSDP add a part with an underscore anywhere; DataParallel, Lightning and
    AveragedModel one in front of all, and no network has all its tensors in one module.
    """
    parts = {name: [x for x in name.split(".") if x[:1] != "_"] for name in tensors}
    parts = {name: inner for name, inner in parts.items() if inner[-1:] != [_COUNTER]}
    while min(map(len, parts.values()), default=0) > 2 and len({x[0] for x in parts.values()}) == 1:
        parts = {name: inner[1:] for name, inner in parts.items()}
    found = {".".join(inner): tensors[name] for name, inner in parts.items()}
    if not found or len(found) < len(parts) or found.keys() == tensors.keys():
        return tensors
    # The first name that changes, if any does.
    old, new = max(zip(parts, found, strict=True), key=lambda pair: pair[0] != pair[1])
    without = f", without {_COUNTER}" if len(parts) < len(tensors) else ""
    print(f"{path} has names of a wrapper: {old} is read as {new}{without}.", file=sys.stderr)
    return found
