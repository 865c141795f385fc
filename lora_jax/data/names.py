"""Names that a user gives, checked against those there are."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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
        nearest = difflib.get_close_matches(name, choices, n=1, cutoff=0.0)[0]
        raise ValueError(
            f"unknown {what} {name!r}; nearest: {nearest!r}; known: {', '.join(choices)}"
        )
    return name
