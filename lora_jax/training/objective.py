"""What a pretrained base learns, to label texts or to write them, behind one interface.

A study that trains by an `Objective` need not know which of the two it has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from lora_jax.data import Examples, Task, evaluation_batches
from lora_jax.hub import Pretrained
from lora_jax.lifting import Lifted
from lora_jax.training import classifier, language_model
from lora_jax.training.labels import Rule

Variables = Mapping[str, Any]


class Objective(NamedTuple):
    """How a base learns a task, and how that is scored.

    Attributes:
      reads: the names of what `base.apply` takes of a batch, in its order.
      rules: what trains, by "lora", "full" and, where there is a new head, "head".
      init: `init(lifted, key)` makes variables; `lifted` is None without an adapter.
      outputs: `outputs(lifted)` makes the function that is trained.
      loss: `loss(outputs, variables, batch, key)`.
      predict: `predict(outputs, variables, batch)`: of each example the numbers that are graded.
      grade: of these numbers of all examples, and the examples, the "loss" and the metrics.
    """

    reads: tuple[str, ...]
    rules: Mapping[str, Sequence[Rule]]
    init: Callable[[Lifted | None, jax.Array], dict[str, Any]]
    outputs: Callable[[Lifted | None], Callable[..., Any]]
    loss: Callable[..., Any]
    predict: Callable[..., jax.Array]
    grade: Callable[[np.ndarray, Examples], dict[str, float]]

    def inputs(self, rows: int, length: int) -> tuple[jax.ShapeDtypeStruct, ...]:
        """The shapes of what `base.apply` takes."""
        return (jax.ShapeDtypeStruct((rows, length), "int32"),) * len(self.reads)

    def predictor(self, lifted: Lifted | None) -> Callable[[Variables, Any], jax.Array]:
        """Compiles `predict` of variables and a batch, for `score`."""
        return jax.jit(partial(self.predict, self.outputs(lifted)))

    def score(
        self,
        predictor: Callable[[Variables, Any], jax.Array],
        examples: Examples,
        batch_size: int,
        variables: Variables,
    ) -> dict[str, float]:
        """Computes the loss and the metrics on examples.

        Args:
          predictor: as `predictor` makes it.
          examples: at least one.
          batch_size: rows of a batch.
          variables: what is scored.

        Returns:
          What `grade` says.
        """
        batches = evaluation_batches(examples, batch_size)
        found = [np.asarray(predictor(variables, batch))[:real] for batch, real in batches]
        return self.grade(np.concatenate(found), examples)


def labelling(base: Pretrained, task: Task, pooling: str = "mean") -> Objective:
    """An encoder that labels texts by a new head.

    Args:
      base: the encoder.
      task: of classes or of scores; its metric is graded beside the loss.
      pooling: "mean" or "cls".

    Returns:
      Its objective.
    """
    return Objective(
        reads=("ids", "mask", "type_ids"),
        rules=classifier.RULES,
        init=lambda lifted, key: classifier.init_variables(base, lifted, task.outputs, key),
        outputs=lambda lifted: classifier.make_outputs(base, lifted, pooling),
        loss=classifier.loss,
        predict=lambda outputs, variables, batch: outputs(variables, batch),
        grade=partial(classifier.grade, task),
    )


def writing(base: Pretrained) -> Objective:
    """A decoder that writes answers, graded by how well it predicts given ones.

    Args:
      base: the decoder.

    Returns:
      Its objective; the metrics are "perplexity" and "token_accuracy".
    """
    return Objective(
        reads=("ids",),
        rules=language_model.RULES,
        init=lambda lifted, key: language_model.init_variables(base, lifted, key),
        outputs=lambda lifted: language_model.make_outputs(base, lifted),
        loss=language_model.loss,
        predict=language_model.totals,
        grade=lambda found, _: language_model.grade(found),
    )
