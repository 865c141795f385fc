"""A tokenizer of one's own, for a model that is trained from scratch."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from lora_jax.hub.tokenizer import Tokenizer

END = "<|endoftext|>"
_BYTES = 256


def train_tokenizer(directory: str | Path, texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Learns byte-pair merges from texts, as GPT-2's: any text can be written, none is unknown.

    The same texts give the same file, byte for byte.

    Args:
      directory: where to; it is made. An older tokenizer in it is replaced.
      texts: what to learn from.
      vocab_size: tokens at most: the end of a text (id 0), 256 bytes, and merges.

    Returns:
      The tokenizer, whose files `tokenizer.json` and `tokenizer_config.json` are written.

    Raises:
      ValueError: too small a vocabulary.

    Source: Sennrich et al. 2016, "Neural machine translation of rare words with subword units".
    """
    if vocab_size <= _BYTES:
        raise ValueError(f"a vocabulary of {vocab_size}: {_BYTES + 1} are bytes and the end")
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(texts, trainer)
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    made.save(str(directory / "tokenizer.json"))
    fields = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END}
    text = json.dumps(fields, indent=2) + "\n"
    (directory / "tokenizer_config.json").write_text(text, encoding="utf-8")
    return Tokenizer(directory)
