"""Configs of language models inside the config of a model that holds them."""

from collections.abc import Mapping
from typing import Any

_SPECIAL = ("pad_token_id", "bos_token_id", "eos_token_id")


def language_fields(fields: Mapping[str, Any], inner: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a language model, with what only the whole says.

    Args:
        fields: of the whole model. Its special tokens count where it names them: they also come
            from generation_config.json.
        inner: of the language model.

    Returns:
        The fields; the head is tied to the embedding if either says so.
    """
    said = {name: fields[name] for name in _SPECIAL if fields.get(name) is not None}
    tied = any(part.get("tie_word_embeddings", False) for part in (fields, inner))
    return {**inner, **said, "tie_word_embeddings": tied}
