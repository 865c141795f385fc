"""Triples of subject, relation and object, as a prompt whose answer is a text that says them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lora_jax.data.readers import Fields, text
from lora_jax.data.text_task import TextRecord, ask


def describe_triples(
    triples: Sequence[Sequence[Any]],
    fields: Fields,
    name: str,
    *,
    fields_kept: Mapping[str, Any],
    place: str,
) -> TextRecord:
    """Makes the record of some triples and one text.

    Args:
      triples: each three texts.
      fields: of the row.
      name: of the field that holds the text.
      fields_kept: for metrics.
      place: of the row.

    Raises:
      ValueError: there is no triple, one has other than three texts, or there is no text.

    >>> describe_triples([("Mars", "has moon", "Phobos")], {"text": "Phobos orbits Mars."}, "text",
    ...                  fields_kept={}, place="").prompt
    'Mars : has moon : Phobos'
    """
    for triple in triples:
        if len(triple) != 3 or not all(isinstance(part, str) for part in triple):
            raise ValueError(f"{triple!r} is no triple of texts")
    if not triples:
        raise ValueError("there is no triple")
    prompt = " | ".join(" : ".join(triple) for triple in triples)
    return ask(prompt, text(fields, name).strip(), fields=fields_kept, place=place)
