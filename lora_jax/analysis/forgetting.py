"""What a model has forgotten of the domain it was pretrained on.

Of a decoder: how well it still predicts texts that its base writes. Of an encoder of sentences: how
its embeddings rank pairs of them, and how near they have stayed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lora_jax.data import Examples, Record
from lora_jax.evaluation import Sampling, find_metric, generate
from lora_jax.hub import Pretrained
from lora_jax.lifting import Lifted
from lora_jax.models.heads import normalize, pool
from lora_jax.training import language_model

Variables = Mapping[str, Any]


class OwnDomain(NamedTuple):
    """Examples of a base's own domain, and how to see what is left of it.

    Attributes:
      examples: of the domain.
      scores: the names of what `grade` finds.
      predict: `predict(lifted)` makes a function of variables and a batch of the examples, which
        returns of each the numbers that are graded; `lifted` is None without an adapter.
      grade: of these numbers of all examples, and the examples, the scores.
    """

    examples: Examples
    scores: tuple[str, ...]
    predict: Callable[[Lifted | None], Callable[[Variables, Any], jax.Array]]
    grade: Callable[[np.ndarray, Examples], dict[str, float]]

    def score_base(self, base: Pretrained) -> dict[str, float]:
        """What the base itself scores, which has forgotten nothing."""
        found = jax.jit(self.predict(None))({"params": base.params}, self.examples)
        return self.grade(np.asarray(found), self.examples)


def own_texts(base: Pretrained, number: int, length: int) -> OwnDomain:
    """Texts that a decoder itself writes, drawn at temperature 1 with a fixed seed.

    The mean loss of another model on them, minus the base's own, estimates the divergence
    KL(base || other) of a token without bias.

    Args:
      base: the decoder.
      number: of the texts.
      length: tokens of a text, at most.

    Returns:
      The texts, scored by "own_loss", in nats a token.
    """
    begin = base.tokenizer.bos_id
    if begin is None:  # texts follow one another, each with an end
        begin = base.tokenizer.eos_id
    starts = np.full((number, 1), begin, np.int32)
    found = generate(
        base.apply,
        base.params,
        starts,
        config=base.config,
        max_new_tokens=length - 1,
        search=Sampling(temperature=1.0),
        key=jax.random.key(0),
    )
    tokens, lengths = np.asarray(found.tokens), np.asarray(found.lengths)
    real = np.arange(length) <= lengths[:, None]
    ids = np.where(real, np.concatenate([starts, tokens], 1), 0).astype(np.int32)
    marks = real.astype(np.int32)

    def predict(lifted: Lifted | None) -> Callable[[Variables, Any], jax.Array]:
        return partial(language_model.totals, language_model.make_outputs(base, lifted))

    return OwnDomain(
        examples={"ids": ids, "trained": marks, "segments": marks},
        scores=("own_loss",),
        predict=predict,
        grade=lambda found, _: {"own_loss": language_model.grade(found)["loss"]},
    )


def own_sentences(
    base: Pretrained, pairs: Sequence[Record], length: int, pooling: str
) -> OwnDomain:
    """Pairs of sentences, whose embeddings an encoder was trained to compare.

    Args:
      base: the encoder.
      pairs: with how alike the two are as their label, such as those of STS-B.
      length: tokens of a sentence; what is longer is cut.
      pooling: of the encoder, "mean" or "cls".

    Returns:
      The pairs, scored by "stsb_spearman", how the cosines of embeddings rank the pairs, and
      "embedding_cosine", the mean cosine of the first one's embedding with that of the base.
    """
    read = partial(base.tokenizer.encode, length=length, truncate=True)
    first, second = read([pair.text for pair in pairs]), read([str(pair.pair) for pair in pairs])
    examples: dict[str, np.ndarray] = {
        "ids": first.ids,
        "mask": first.mask,
        "pair_ids": second.ids,
        "pair_mask": second.mask,
        "label": np.array([pair.label for pair in pairs], np.float32),
    }

    def embedding(lifted: Lifted | None, variables: Variables, ids: Any, mask: Any) -> jax.Array:
        inputs = ids, mask, jnp.zeros_like(ids)
        if lifted is None:
            hidden = base.apply(variables["params"], *inputs)
        else:
            hidden = lifted(variables["params"], variables["adapter"], *inputs)
        return normalize(pool(hidden, mask, pooling))

    def predict(lifted: Lifted | None) -> Callable[[Variables, Any], jax.Array]:
        def cosines(variables: Variables, batch: Mapping[str, Any]) -> jax.Array:
            one = embedding(lifted, variables, batch["ids"], batch["mask"])
            other = embedding(lifted, variables, batch["pair_ids"], batch["pair_mask"])
            kept = (one * batch["embedding"]).sum(-1)
            return jnp.stack([(one * other).sum(-1), kept], -1)

        return cosines

    before = jax.jit(partial(embedding, None))
    examples["embedding"] = np.asarray(before({"params": base.params}, first.ids, first.mask))
    names = ("stsb_spearman", "embedding_cosine")
    return OwnDomain(examples, names, predict, _grade_cosines)


def _grade_cosines(found: np.ndarray, examples: Examples) -> dict[str, float]:
    if not np.isfinite(found).all():
        return {"stsb_spearman": float("nan"), "embedding_cosine": float("nan")}
    ranks = find_metric("spearman")(found[:, 0], examples["label"])
    return {"stsb_spearman": float(ranks), "embedding_cosine": float(found[:, 1].mean())}
