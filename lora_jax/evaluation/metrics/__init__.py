"""The metrics of the tasks, by the names that tasks give them.

A metric of labels takes arrays, of predicted and of true classes or scores. A metric of texts
takes a text for each example and the references of each, one or more; it is a `TextMetric`. Either
gives one float. How sure that is: `evaluation.bootstrap_interval`.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

from lora_jax.data.names import known
from lora_jax.evaluation.metrics.anls import anls
from lora_jax.evaluation.metrics.bleu import bleu_statistics, bleu_value
from lora_jax.evaluation.metrics.choices import choice
from lora_jax.evaluation.metrics.cider import cider_statistics
from lora_jax.evaluation.metrics.classification import (
    accuracy,
    f1,
    f1_macro,
    f1_weighted,
    matthews,
)
from lora_jax.evaluation.metrics.correlation import pearson, spearman
from lora_jax.evaluation.metrics.entities import (
    entity_f1_value,
    entity_precision_value,
    entity_recall_value,
    entity_statistics,
)
from lora_jax.evaluation.metrics.exact_match import exact_match
from lora_jax.evaluation.metrics.final_answer import final_answer
from lora_jax.evaluation.metrics.key_values import key_value_overlap
from lora_jax.evaluation.metrics.logical_form import logical_form
from lora_jax.evaluation.metrics.meteor import meteor, meteor_exact_stem
from lora_jax.evaluation.metrics.nist import nist_statistics, nist_value
from lora_jax.evaluation.metrics.rouge import (
    rouge_1,
    rouge_2,
    rouge_l,
    rouge_l_caption,
    rouge_l_summary,
)
from lora_jax.evaluation.metrics.ter import ter_statistics, ter_value
from lora_jax.evaluation.metrics.text_metric import TextMetric, average, mean_of
from lora_jax.evaluation.metrics.tool_calls import tool_calls

__all__ = [
    "METRICS",
    "TextMetric",
    "accuracy",
    "f1",
    "f1_macro",
    "f1_weighted",
    "find_metric",
    "matthews",
    "pearson",
    "spearman",
]

METRICS: Mapping[str, Callable[[Any, Any], float]] = {
    # Of labels.
    "accuracy": accuracy,
    "f1": f1,
    "f1_macro": f1_macro,
    "f1_weighted": f1_weighted,
    "matthews": matthews,
    "pearson": pearson,
    "spearman": spearman,
    # Of texts, over the corpus.
    "bleu": TextMetric(bleu_statistics, bleu_value),
    "bleu_lowercase": TextMetric(functools.partial(bleu_statistics, lowercase=True), bleu_value),
    "nist": TextMetric(nist_statistics, nist_value),
    "ter": TextMetric(ter_statistics, ter_value, higher_is_better=False),
    "cider": TextMetric(cider_statistics, average),
    "entity_precision": TextMetric(entity_statistics, entity_precision_value),
    "entity_recall": TextMetric(entity_statistics, entity_recall_value),
    "entity_f1": TextMetric(entity_statistics, entity_f1_value),
    # Of texts, the mean over the examples.
    "meteor": mean_of(meteor),
    "meteor_exact_stem": mean_of(meteor_exact_stem),
    "rouge_1": mean_of(rouge_1),
    "rouge_2": mean_of(rouge_2),
    "rouge_l": mean_of(rouge_l),
    "rouge_l_summary": mean_of(rouge_l_summary),
    "rouge_l_caption": mean_of(rouge_l_caption),
    "exact_match": mean_of(exact_match),
    "anls": mean_of(anls),
    "key_value_overlap": mean_of(key_value_overlap),
    "final_answer": mean_of(final_answer),
    "choice": mean_of(choice),
    "tool_calls": mean_of(tool_calls),
    "logical_form": mean_of(logical_form),
}
"""Every metric by the name that a task gives it."""


def find_metric(name: str) -> Callable[[Any, Any], float]:
    """The metric of a name.

    Args:
      name: A key of `METRICS`.

    Returns:
      A metric of labels, or a `TextMetric`.

    Raises:
      ValueError: If there is none; the nearest is named.
    """
    return METRICS[known(name, METRICS, "metric")]
