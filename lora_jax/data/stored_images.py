"""Pictures as Parquet of the hub keeps them: the bytes of a file."""

from __future__ import annotations

from lora_jax.data.readers import Fields


def image_bytes(fields: Fields, name: str = "image") -> bytes:
    """Takes the bytes of a picture from a row.

    Args:
      fields: of the row.
      name: of the field, a mapping with "bytes".

    Raises:
      ValueError: it holds none.
    """
    value = fields.get(name)
    content = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(content, bytes) or not content:
        raise ValueError(f"field {name!r} holds no picture")
    return content
