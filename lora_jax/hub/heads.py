"""What the config.json of an encoder says of its head."""

from collections.abc import Mapping
from typing import Any


def read_head(fields: Mapping[str, Any], head: str | None) -> dict[str, Any]:
    """Reads the fields of a model's config that concern its head.

    Args:
        fields: the content of config.json.
        head: the head that is asked for, or None.

    Returns:
        `head` and, where it matters, `classes`.

    Raises:
        ValueError: the file contradicts the head.
    """
    if head is None:
        return {}
    if head == "masked_lm" and fields.get("tie_word_embeddings") is False:
        raise ValueError(
            "tie_word_embeddings is false, but head 'masked_lm' multiplies with the embedding"
        )
    labels = fields.get("id2label")
    classes = fields.get("num_labels") if labels is None else len(labels)
    if head == "regression" and classes not in (None, 1):
        raise ValueError(
            f"head 'regression' has one output, but there are {classes} labels; "
            "'classification' has an output for each"
        )
    # Two labels are what transformers leaves out of the file.
    return {"head": head, "classes": 2 if classes is None else classes}
