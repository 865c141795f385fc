"""The domain of a pretrained base itself, on which a study sees what fine-tuning has forgotten.

Of a decoder: texts that it writes. Of an encoder of sentences: how its embeddings rank pairs of
them, and how near embeddings have stayed.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from lora_jax import hub
from lora_jax.data import Examples
from lora_jax.evaluation import Sampling, find_metric, generate
from lora_jax.models.heads import normalize, pool


def say(base: hub.Pretrained, config: ConfigDict) -> dict[str, np.ndarray]:
    """Texts that the base itself writes, drawn at temperature 1 with a fixed seed.

    The mean loss of another model on them, minus the base's own, estimates the divergence
    KL(base || other) of a token without bias: what was forgotten of the base's own domain.
    """
    begin = base.tokenizer.bos_id
    if begin is None:  # texts follow one another, each with an end
        begin = base.tokenizer.eos_id
    starts = np.full((config.examples.own, 1), begin, np.int32)
    found = generate(
        base.apply,
        base.params,
        starts,
        config=base.config,
        max_new_tokens=config.length - 1,
        search=Sampling(temperature=1.0),
        key=jax.random.key(0),
    )
    tokens, lengths = np.asarray(found.tokens), np.asarray(found.lengths)
    real = np.arange(config.length) <= lengths[:, None]
    ids = np.where(real, np.concatenate([starts, tokens], 1), 0).astype(np.int32)
    return {"ids": ids, "trained": real.astype(np.int32), "segments": real.astype(np.int32)}


def encode_pairs(pairs: Sequence[Any], base: hub.Pretrained, length: int) -> dict[str, np.ndarray]:
    """The two texts of each pair apart, as an encoder of sentences reads them."""
    read = partial(base.tokenizer.encode, length=length, truncate=True)
    first, second = read([pair.text for pair in pairs]), read([str(pair.pair) for pair in pairs])
    return {
        "ids": first.ids,
        "mask": first.mask,
        "pair_ids": second.ids,
        "pair_mask": second.mask,
        "label": np.array([pair.label for pair in pairs], np.float32),
    }


def pooled(base: hub.Pretrained, texts: Examples, config: ConfigDict) -> np.ndarray:
    """The frozen base's embeddings of the first text of each pair."""
    zeros = np.zeros_like(texts["ids"])
    hidden = jax.jit(base.apply)(base.params, texts["ids"], texts["mask"], zeros)
    return np.asarray(normalize(pool(hidden, texts["mask"], config.pooling)))


def score_similarity(found: np.ndarray, own: Examples) -> dict[str, float]:
    """How well cosines of embeddings rank STS-B's pairs, and how near embeddings stayed."""
    if not np.isfinite(found).all():
        return {"stsb_spearman": float("nan"), "embedding_cosine": float("nan")}
    ranks = find_metric("spearman")(found[:, 0], own["label"])
    return {"stsb_spearman": float(ranks), "embedding_cosine": float(found[:, 1].mean())}
