"""Configs that hold other configs."""

import dataclasses
from typing import Any

_SHARED = ("dtype", "scan", "remat")


def share(config: Any, *parts: str) -> None:
    """Gives the parts of a frozen config the type and the switches of the whole.

    Called in `__post_init__`, so that `dataclasses.replace(config, scan=False)` reaches every part.

    Args:
        config: has the fields `dtype`, `scan` and `remat`.
        parts: names of its fields that are configs with the same fields.
    """
    shared = {name: getattr(config, name) for name in _SHARED}
    for part in parts:
        object.__setattr__(config, part, dataclasses.replace(getattr(config, part), **shared))
