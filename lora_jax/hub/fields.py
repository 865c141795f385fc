"""Fields of a config.json, by our names."""

from collections.abc import Iterable, Mapping
from typing import Any


def read_fields(
    fields: Mapping[str, Any], table: Mapping[str, str], *, part: str = ""
) -> dict[str, Any]:
    """Takes the fields that a table names.

    Args:
        fields: the content of config.json, or of a part of it.
        table: the name of a field by our name.
        part: the part of config.json, for the error.

    Returns:
        The fields' values, by our names.

    Raises:
        ValueError: some are missing; the message lists them.

    >>> read_fields({"n_embd": 8, "n_layer": 2}, {"dim": "n_embd"})
    {'dim': 8}
    """
    check_present(fields, table.values(), part=part)
    return {ours: fields[theirs] for ours, theirs in table.items()}


def check_present(fields: Mapping[str, Any], names: Iterable[str], *, part: str = "") -> None:
    """Checks that no field is missing.

    Raises:
        ValueError: some are; the message lists them.
    """
    missing = [name for name in names if name not in fields]
    if missing:
        raise ValueError(" ".join((*([part] if part else []), f"lacks {', '.join(missing)}")))
