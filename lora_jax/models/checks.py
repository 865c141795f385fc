"""What a config refuses."""

from collections.abc import Collection


def check_name(field: str, name: str, known: Collection[str]) -> None:
    """Checks that a field holds a known name.

    Raises:
        ValueError: it does not; the message lists the known ones.
    """
    if name not in known:
        raise ValueError(f"unknown {field} {name!r}; known: {', '.join(known)}")
