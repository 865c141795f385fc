"""Two language models whose texts are known without running them, as fast as tests want them."""

import dataclasses

import jax
import jax.numpy as jnp

from lora_jax.models.cache import advance, begin


@dataclasses.dataclass(frozen=True)
class Config:
    """What generation asks of a config."""

    model_type: str = "table"
    vocab_size: int = 6
    layers: int = 1
    kv_heads: int = 1
    head_dim: int = 1
    dtype: str = "float32"
    max_length: int = 64
    pad_id: int | None = 0
    bos_id: int | None = None
    eos_ids: tuple[int, ...] = ()


def bigram(table, ids, mask=None, *, cache, outputs):
    """Logits of the next token: the row of the last token in a table `[vocab, vocab]`."""
    assert outputs == "last"
    cache, order, _ = begin(cache, ids, mask)
    last = jnp.take_along_axis(ids, order.argmax(axis=1)[:, None], axis=1)[:, 0]
    return table[last], advance(cache, ids.shape[1])


def script(table, ids, mask=None, *, cache, outputs):
    """Logits of the next token: the row of the last token's place in a table `[places, vocab]`."""
    assert outputs == "last"
    cache, order, _ = begin(cache, ids, mask)
    return table[order.max(axis=1)], advance(cache, ids.shape[1])


def random_table(vocab, seed=0):
    return jax.random.normal(jax.random.key(seed), (vocab, vocab)) * 2


def saying(tokens, vocab):
    """The table with which `script` says these tokens after a prompt of one token."""
    return jax.nn.one_hot(jnp.array(tokens), vocab) * 10.0
