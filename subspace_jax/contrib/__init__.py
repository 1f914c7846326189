"""What single articles add to subspaces; each module is imported when it is used.

`lora` (low-rank deltas on a frozen base), `alignment` (permutations of hidden units), `swag` (a Gaussian
around an average), `sharpness` (SAM and ASAM) and `complexes` (simplexes that share vertices).
"""

import importlib
from typing import Any

__all__ = ["alignment", "complexes", "lora", "sharpness", "swag"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
