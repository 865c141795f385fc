"""What a study is about: a pretrained base and the task it learns, labels and texts alike.

An encoder with a new head labels texts; a decoder writes them, and is scored by its loss alone.
The studies do not know which they have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from scipy.special import logsumexp

import lora_jax as lora
from experiments.own_domain import encode_pairs, pooled, say, score_similarity
from lora_jax import hub, models, training
from lora_jax.data import (
    Examples,
    TextEncoder,
    encode,
    is_text_task,
    load_task,
    load_text_task,
    pad,
)
from lora_jax.data.names import known
from lora_jax.data.split import shuffled_split, spread
from lora_jax.evaluation import find_metric
from lora_jax.models.heads import normalize, pool
from lora_jax.training import classifier, language_model

Variables = Mapping[str, Any]
Record = TypeVar("Record")

LABELS = ("accuracy", "f1", "f1_macro", "f1_weighted", "matthews")  # metrics of classes
SCORES = ("spearman", "pearson")


class Subject(NamedTuple):
    """A base and its task.

    Attributes:
      name: such as "MiniLM on sst2".
      about: where the examples come from, and how many are used.
      metric: what counts; "loss" of a decoder, in nats a token.
      base: the pretrained model.
      train: examples to train on.
      validation: examples to choose learning rates by.
      test: examples to score on, in none of the other two.
      own: texts of the base's own domain, to see what is forgotten; none if not asked for.
      inputs: shapes of a batch, as `base.apply` takes it.
      rules: what trains, by "lora" and "full".
      init: `init(lifted, key)` makes variables.
      outputs: `outputs(lifted)` makes the function that is trained.
      loss: `loss(outputs, variables, batch, key)`.
      predict: `predict(outputs, variables, batch)`, of each example what `score` needs.
      score: of predictions and examples, the metric and the "loss".
      remember: `remember(lifted)` makes a function of variables and a batch of `own`, whose results
        `remembered` scores; a lower score of a decoder, a higher one of an encoder is better.
      remembered: of results and `own`, the names and values of what is left of the base.
      remembers: these names.
    """

    name: str
    about: str
    metric: str
    base: hub.Pretrained
    train: Examples
    validation: Examples
    test: Examples
    own: Examples | None
    inputs: Sequence[jax.ShapeDtypeStruct]
    rules: Mapping[str, Sequence[tuple[str, str | None]]]
    init: Callable[[lora.Lifted | None, jax.Array], dict[str, Any]]
    outputs: Callable[[lora.Lifted | None], Callable[..., Any]]
    loss: Callable[..., Any]
    predict: Callable[..., jax.Array]
    score: Callable[[np.ndarray, Examples], dict[str, float]]
    remember: Callable[[lora.Lifted | None], Callable[..., jax.Array]]
    remembered: Callable[[np.ndarray, Examples], dict[str, float]]
    remembers: tuple[str, ...]

    @property
    def lower_is_better(self) -> bool:
        """Whether the metric is a loss."""
        return self.metric == "loss"


def defaults() -> ConfigDict:
    """The settings of a subject; every study has them."""
    config = ConfigDict()
    config.task = ConfigDict({"name": "", "options": ConfigDict()})
    config.metric = ""  # the task's own; or another that it has
    config.model = ConfigDict({"name": "", "path": "", "sha256": ""})
    config.model.fresh = False  # weights drawn anew, not pretrained: a control
    config.pooling = "mean"  # of an encoder
    config.length = 32  # tokens of an example; a text to write that is longer is left out
    config.examples = ConfigDict({"train": 2000, "validation": 192, "test": 384, "own": 0})
    config.batch_size = 8
    config.evaluation_batch_size = 48
    return config


def load(config: ConfigDict) -> Subject:
    """Reads the task and the base that a config names.

    Raises:
      ValueError: an unknown task, a metric that the task lacks, or no examples.
    """
    for part in ("train", "validation", "test"):
        if config.examples[part] < 1:
            raise ValueError(f"examples.{part} = {config.examples[part]}: at least 1 is needed")
    writes = is_text_task(config.task.name)
    if writes:
        known(config.metric or "loss", ("loss",), f"metric of task {config.task.name!r}")
    base = hub.load_model(
        config.model.path,
        dtype="float32",
        sha256=config.model.sha256 or None,
        scan=True,
    )
    if config.model.fresh:
        base = base._replace(params=models.init(base.config, jax.random.key(0)))
    return write_texts(config, base) if writes else label_texts(config, base)


def label_texts(config: ConfigDict, base: hub.Pretrained) -> Subject:
    """A task of labels, an encoder, and a new head."""
    task = load_task(config.task.name, config.task.options.to_dict())
    metrics = LABELS if task.classes else SCORES
    metric = known(config.metric or task.metric, metrics, f"metric of task {task.name!r}")
    train, validation = split(config, task.train, task.validation)
    test = spread(task.test, config.examples.test)
    parts = [encode(part, base.tokenizer, config.length) for part in (train, validation, test)]
    own = None
    if config.examples.own:
        pairs = spread(load_task("stsb").test, config.examples.own)
        own = encode_pairs(pairs, base, config.length)

    def embed(lifted: lora.Lifted | None) -> Callable[..., jax.Array]:
        def embedding(variables: Variables, ids: Any, mask: Any) -> jax.Array:
            inputs = ids, mask, jnp.zeros_like(ids)
            if lifted is None:
                hidden = base.apply(variables["params"], *inputs)
            else:
                hidden = lifted(variables["params"], variables["adapter"], *inputs)
            return normalize(pool(hidden, mask, config.pooling))

        def similarity(variables: Variables, batch: Mapping[str, Any]) -> jax.Array:
            first = embedding(variables, batch["ids"], batch["mask"])
            second = embedding(variables, batch["pair_ids"], batch["pair_mask"])
            kept = (first * batch["embedding"]).sum(-1)
            return jnp.stack([(first * second).sum(-1), kept], -1)

        return similarity

    if own is not None:
        own["embedding"] = pooled(base, own, config)
    shape = jax.ShapeDtypeStruct((config.batch_size, config.length), "int32")
    return Subject(
        name=f"{config.model.name} on {task.name}",
        about=f"{task.about} {counted(*parts)}",
        metric=metric,
        base=base,
        train=parts[0],
        validation=parts[1],
        test=parts[2],
        own=own,
        inputs=(shape, shape, shape),
        rules={"lora": training.LORA, "full": training.FULL},
        init=lambda lifted, key: classifier.init_variables(base, lifted, task.outputs, key),
        outputs=lambda lifted: classifier.make_outputs(base, lifted, config.pooling),
        loss=classifier.loss,
        predict=lambda outputs, variables, batch: outputs(variables, batch),
        score=partial(score_labels, metric, bool(task.classes)),
        remember=embed,
        remembered=score_similarity,
        remembers=("stsb_spearman", "embedding_cosine"),
    )


def write_texts(config: ConfigDict, base: hub.Pretrained) -> Subject:
    """A task of answers, and a decoder that is scored by its loss on them."""
    task = load_text_task(config.task.name, config.task.options.to_dict())
    encoder = TextEncoder(tokenizer=base.tokenizer, length=config.length, bad_rows="skip")
    records = split(config, task.train, task.validation, times=8)
    train, validation, test = (
        fitting(encoder, part, count)
        for part, count in zip(
            (*records, task.test),
            (config.examples.train, config.examples.validation, config.examples.test),
            strict=True,
        )
    )
    own = say(base, config) if config.examples.own else None

    def losses(outputs: Callable[..., Any], variables: Variables, batch: Any) -> jax.Array:
        found = outputs(variables, batch)
        return jnp.stack([(found.loss * found.weight).sum(-1), found.weight.sum(-1)], -1)

    def remember(lifted: lora.Lifted | None) -> Callable[..., jax.Array]:
        return partial(losses, language_model.make_outputs(base, lifted))

    return Subject(
        name=f"{config.model.name} on {task.name}",
        about=f"{task.about} Of them those of at most {config.length} tokens. "
        f"{counted(train, validation, test)}",
        metric="loss",
        base=base,
        train=train,
        validation=validation,
        test=test,
        own=own,
        inputs=(jax.ShapeDtypeStruct((config.batch_size, config.length), "int32"),),
        rules={
            "lora": (("adapter/.*", "adapter"), ("params/.*", None)),
            "full": (("params/.*", "params"),),
        },
        init=lambda lifted, key: language_model.init_variables(base, lifted, key),
        outputs=lambda lifted: language_model.make_outputs(base, lifted),
        loss=language_model.loss,
        predict=losses,
        score=lambda found, _: {"loss": mean_loss(found)},
        remember=remember,
        remembered=lambda found, _: {"own_loss": mean_loss(found)},
        remembers=("own_loss",),
    )


def split(
    config: ConfigDict, train: Sequence[Record], validation: Sequence[Record], times: int = 1
) -> tuple[Sequence[Record], Sequence[Record]]:
    """Examples to train on and others to choose by, `times` as many as are wanted of each.

    A task without a validation part gives up some of its training examples for it.
    """
    wanted = config.examples
    if not validation:
        if wanted.validation >= len(train):
            raise ValueError(
                f"examples.validation = {wanted.validation}: the task has no validation part, and "
                f"fewer than its {len(train):,} training examples are needed"
            )
        train, validation = shuffled_split(train, wanted.validation / len(train), seed=0)
    return spread(train, times * wanted.train), spread(validation, times * wanted.validation)


def fitting(encoder: TextEncoder, records: Sequence[Any], most: int) -> Examples:
    """The examples that are not too long, at most so many, each in a row of its own."""
    found = encoder.encode(records).examples
    if not found:
        raise ValueError(f"length = {encoder.length}: no example of the task is as short as that")
    return pad(spread(found, most), encoder.length)


def counted(train: Examples, validation: Examples, test: Examples) -> str:
    """Says how many examples are used."""
    counts = [len(next(iter(part.values()))) for part in (train, validation, test)]
    return (
        f"{counts[0]:,} to train on, {counts[1]:,} to choose learning rates by, {counts[2]:,} to "
        "test on, evenly spread over what there is."
    )


def score_labels(
    metric: str, has_classes: bool, found: np.ndarray, examples: Examples
) -> dict[str, float]:
    """The metric of logits, or of scores, and their loss."""
    if not np.isfinite(found).all():
        return {"loss": np.nan, metric: np.nan}
    labels = examples["label"]
    predicted = found.argmax(-1) if has_classes else found[:, 0]
    if has_classes:
        losses = logsumexp(found, axis=-1) - found[np.arange(len(found)), labels]
    else:
        losses = (predicted - labels) ** 2
    return {"loss": float(losses.mean()), metric: float(find_metric(metric)(predicted, labels))}


def mean_loss(found: np.ndarray) -> float:
    """Nats a token, from the sums of each example."""
    total, count = found.astype(np.float64).sum(0)
    return float(total / count)
