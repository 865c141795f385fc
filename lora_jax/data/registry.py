"""The tasks by name."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from lora_jax.data.docstrings import docstrings
from lora_jax.data.glue import TASKS as GLUE
from lora_jax.data.glue import glue
from lora_jax.data.task import Task

MAKERS: Mapping[str, Callable[..., Task]] = {
    "docstrings": docstrings,
    **{name: functools.partial(glue, name) for name in GLUE},
}


def load_task(name: str, options: Mapping[str, Any] | None = None) -> Task:
    """Makes the task of a config.

    Args:
      name: "docstrings", or a task of GLUE.
      options: arguments of `docstrings` or `glue`.

    Returns:
      The task.

    Raises:
      ValueError: an unknown task or option; the nearest is named.
    """
    make = MAKERS[_known(name, MAKERS, "task")]
    for option in options or {}:
        _known(option, inspect.signature(make).parameters, f"option of task {name!r}")
    return make(**(options or {}))


def _known(name: str, choices: Mapping[str, Any], what: str) -> str:
    if name not in choices:
        nearest = difflib.get_close_matches(name, choices, n=1, cutoff=0.0)[0]
        raise ValueError(
            f"unknown {what} {name!r}; nearest: {nearest!r}; known: {', '.join(choices)}"
        )
    return name
