"""The language model that a config names, for experiments that write texts with it."""

from __future__ import annotations

from ml_collections import ConfigDict

from lora_jax import hub, models


def load_decoder(config: ConfigDict) -> hub.Pretrained:
    """Loads a model that writes texts, and its tokenizer; unrolled layers are apart.

    Args:
      config: with `model`, a directory, a name on the hub, or a .bin file of llama2.c; `dtype` of
        params and products, empty for that of the files; and `scan`.

    Raises:
      FileNotFoundError: it is not there.
      ValueError: none is named, it writes no texts, or its files are broken.
    """
    if not config.model:
        raise ValueError("give --config.model: a directory, a name on the hub, or a .bin file")
    model = hub.load_model(config.model, dtype=config.dtype or None, scan=config.scan)
    if not hasattr(model.config, "eos_ids"):
        raise ValueError(f"a model of type {model.config.model_type!r} does not generate text")
    return model if config.scan else model._replace(params=models.unstack(model.params))
