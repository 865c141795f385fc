"""What a model answers to the records of a task, and how often that is right."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lora_jax.data import TextEncoder, TextRecord, evaluation_batches
from lora_jax.evaluation.beam import BeamSearch
from lora_jax.evaluation.bootstrap import bootstrap_interval
from lora_jax.evaluation.intervals import Interval
from lora_jax.evaluation.metrics import find_metric
from lora_jax.evaluation.sampling import Sampling
from lora_jax.evaluation.texts import generate_text
from lora_jax.hub import Encoded, Pretrained


def answer(
    model: Pretrained,
    encoder: TextEncoder,
    records: Sequence[TextRecord],
    *,
    max_new_tokens: int,
    batch_size: int,
    search: Sampling | BeamSearch | None = None,
) -> list[str]:
    """Has a model answer records, many at a time, each from the prompt that it was trained with.

    Args:
      model: a language model; `model._replace(params=lifted.merge(...))` has an adapter.
      encoder: of the records, as in training.
      records: at least one, without pictures.
      max_new_tokens: most tokens of an answer; its end counts as one.
      batch_size: records answered at once.
      search: as of `generate_text`; None is greedy.

    Returns:
      A text for each record; an empty one where the encoder skips the prompt, which is too long,
      so that it counts as wrong.

    Raises:
      ValueError: as `TextEncoder.prompts`.
    """
    (ids, mask, _), rows, _ = encoder.prompts(records, max_new_tokens)
    texts = [""] * len(records)
    found: list[str] = []
    for batch, real in evaluation_batches({"ids": ids, "mask": mask}, batch_size):
        prompts = Encoded(**batch, type_ids=np.zeros_like(batch["ids"]))
        made = generate_text(model, prompts, max_new_tokens=max_new_tokens, search=search)
        found += [completion.text for completion in made[:real]]
    for row, text in zip(rows, found, strict=True):
        texts[row] = text
    return texts


def score_answers(
    metrics: Sequence[str], texts: Sequence[str], records: Sequence[TextRecord], *, seed: int = 0
) -> dict[str, Interval]:
    """Computes the metrics of a task.

    Args:
      metrics: keys of `METRICS`, such as `task.metrics`.
      texts: an answer for each record.
      records: what is right.
      seed: of the bootstrap.

    Returns:
      metric -> its value and 95 % bootstrap interval over the records.
    """
    references = [list(record.accepted) for record in records]
    return {
        name: bootstrap_interval(find_metric(name), list(texts), references, seed=seed)
        for name in metrics
    }
