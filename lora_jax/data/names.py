"""Names that a user gives, checked against those there are."""

from __future__ import annotations

from collections.abc import Iterable

from lora_jax.nearest import nearest


def known(name: str, choices: Iterable[str], what: str) -> str:
    """Returns a name that is among the choices.

    Args:
      name: as given.
      choices: at least one.
      what: the sort of thing it names, for the message.

    Raises:
      ValueError: it is none of them; the nearest is named.

    >>> known("glue", ("glue", "gsm8k"), "task")
    'glue'
    """
    choices = tuple(choices)
    if name not in choices:
        (near,) = nearest(name, choices)
        raise ValueError(f"unknown {what} {name!r}; nearest: {near!r}; known: {', '.join(choices)}")
    return name
