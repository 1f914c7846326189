"""The values of a config."""

from collections.abc import Iterator, Mapping
from typing import Any


def flatten(config: Mapping[str, Any], prefix: str = "config") -> Iterator[tuple[str, Any]]:
    """The values of a nested config by their dotted names, tuples as lists."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}.{name}")
        else:
            yield f"{prefix}.{name}", _lists(value)


def _lists(value):
    """A value as JSON has it, tuples inside tuples included."""
    return [_lists(item) for item in value] if isinstance(value, list | tuple) else value
