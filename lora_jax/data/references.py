"""Records of one prompt brought together, so that all its answers are references."""

from __future__ import annotations

from collections.abc import Iterable

from lora_jax.data.text_task import TextRecord


def group_references(records: Iterable[TextRecord]) -> tuple[TextRecord, ...]:
    """Makes one record of those that ask the same.

    Args:
      records: with one answer each.

    Returns:
      The first record of each conversation, with the answers of all as its references, in order.

    >>> from lora_jax.data.text_task import ask
    >>> [r.references for r in group_references([ask("a", "1"), ask("b", "2"), ask("a", "3")])]
    [('1', '3'), ('2',)]
    """
    groups: dict[object, list[TextRecord]] = {}
    for record in records:
        groups.setdefault((record.turns, record.images), []).append(record)
    return tuple(
        several[0]._replace(references=tuple(record.answer for record in several))
        for several in groups.values()
    )
