"""What a study is about: a pretrained base and the task it learns, labels and texts alike.

An encoder with a new head labels texts; a decoder writes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import jax
from ml_collections import ConfigDict

from experiments.settings import check_counts
from lora_jax import hub, models, training
from lora_jax.analysis.forgetting import OwnDomain, own_sentences, own_texts
from lora_jax.data import (
    EncodedTexts,
    Examples,
    Task,
    TextEncoder,
    TextRecord,
    TextTask,
    count,
    encode,
    is_text_task,
    load_task,
    load_text_task,
    pad,
)
from lora_jax.data.names import known
from lora_jax.data.packing import Rows
from lora_jax.data.split import shuffled_split, spread
from lora_jax.evaluation import METRICS, TextMetric
from lora_jax.reports import plan

Record = TypeVar("Record")

LABELS = ("accuracy", "f1", "f1_macro", "f1_weighted", "matthews")  # metrics of classes
SCORES = ("spearman", "pearson")
TOKENS = "token_accuracy"  # of the tokens of given answers, each after the right ones before it


class Counts(NamedTuple):
    """How many examples are used, at most.

    Attributes:
      train: to train on; 0: all.
      validation: to choose learning rates by; 0: all of the task's own part, or none.
      test: to score on; 0: all.
      own: of the base's own domain.
      draws: texts too long are left out, so that so many times as many are drawn at first.
    """

    train: int
    validation: int
    test: int
    own: int = 0
    draws: int = 1


class Subject(NamedTuple):
    """A base and its task.

    Attributes:
      name: such as "MiniLM on sst2".
      task: its name alone.
      about: where the examples come from, and how many are used.
      shown: a longer description, with the first example as the base reads it.
      metric: what counts; lower is better of "loss", in nats a token, higher of all others.
      base: the pretrained model.
      objective: how it learns the task.
      train: examples to train on.
      validation: examples to choose learning rates by; empty if there are none.
      test: examples to score on, in none of the other two.
      own: the base's own domain, to see what is forgotten; None if not asked for.
      inputs: shapes of a batch, as `base.apply` takes it.
      encoder: of texts that are written; None of texts that are labelled.
      asked: the records that are answered, to be scored or timed; none of texts that are labelled.
    """

    name: str
    task: str
    about: str
    shown: str
    metric: str
    base: hub.Pretrained
    objective: training.Objective
    train: Examples
    validation: Examples
    test: Examples
    own: OwnDomain | None
    inputs: Sequence[jax.ShapeDtypeStruct]
    encoder: TextEncoder | None = None
    asked: Sequence[TextRecord] = ()

    @property
    def lower_is_better(self) -> bool:
        """Whether the metric is a loss."""
        return self.metric == "loss"

    @property
    def is_generated(self) -> bool:
        """Whether the metric is one of texts that the model has to write first."""
        return self.encoder is not None and self.metric not in ("loss", TOKENS)

    @property
    def tests(self) -> int:
        """How many examples are scored."""
        return len(self.asked) if self.is_generated else count(self.test)


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
    """Reads the task and the base of a study with the settings of `defaults`.

    A decoder is scored by its loss alone.

    Raises:
      ValueError: an unknown task, a metric that the task lacks, or no examples.
    """
    check_counts(config, "examples.train", "examples.validation", "examples.test")
    return read(config, Counts(**config.examples, draws=8), generates=False)


def read(config: ConfigDict, counts: Counts, *, generates: bool) -> Subject:
    """Reads the task and the base that a config names.

    Args:
      config: has `task`, `metric`, `model`, `pooling`, `length` and `batch_size`.
      counts: of examples.
      generates: whether a decoder is scored by the metrics of its task, which higher is better, or
        by how many tokens of given answers it predicts; else by its loss alone.

    Raises:
      ValueError: an unknown task, a metric that the task lacks, or no examples.
    """
    name, options = config.task.name, config.task.options.to_dict()
    if is_text_task(name):
        written = load_text_task(name, options)
        rising = [metric for metric in written.metrics if rises(metric)]
        metric = choose_metric(config, written.name, [*rising, TOKENS] if generates else ["loss"])
        return write_texts(config, load_base(config.model), written, metric, counts)
    task = load_task(name, options)
    metrics = LABELS if task.classes else SCORES
    task = task._replace(metric=choose_metric(config, task.name, [task.metric, *metrics]))
    return label_texts(config, load_base(config.model), task, counts)


def rises(metric: str) -> bool:
    """Whether a higher value of a metric of texts is better."""
    found = METRICS[metric]
    return not isinstance(found, TextMetric) or found.higher_is_better


def choose_metric(config: ConfigDict, task: str, metrics: Sequence[str]) -> str:
    """The metric that is asked for, or the first."""
    return known(config.metric or metrics[0], metrics, f"metric of task {task!r}")


def load_base(model: ConfigDict) -> hub.Pretrained:
    """Reads the pretrained model."""
    base = hub.load_model(
        model.path,
        dtype=model.get("dtype", "float32"),
        sha256=model.sha256 or None,
        scan=model.get("scan", True),
    )
    if model.get("fresh"):
        base = base._replace(params=models.init(base.config, jax.random.key(0)))
    return base


def label_texts(config: ConfigDict, base: hub.Pretrained, task: Task, counts: Counts) -> Subject:
    """A task of labels, an encoder, and a new head."""
    records = (*split(counts, task.train, task.validation), spread(task.test, counts.test))
    train, validation, test = (
        encode(part, base.tokenizer, config.length) if part else {} for part in records
    )
    own = None
    if counts.own:
        pairs = spread(load_task("stsb").test, counts.own)
        own = own_sentences(base, pairs, config.length, config.pooling)
    objective = training.labelling(base, task, config.pooling)
    return Subject(
        name=f"{config.model.name} on {task.name}",
        task=task.name,
        about=f"{task.about} {counted(*map(len, records))}",
        shown=plan.describe_task(task, train, base.tokenizer),
        metric=task.metric,
        base=base,
        objective=objective,
        train=train,
        validation=validation,
        test=test,
        own=own,
        inputs=objective.inputs(config.batch_size, config.length),
    )


def write_texts(
    config: ConfigDict, base: hub.Pretrained, task: TextTask, metric: str, counts: Counts
) -> Subject:
    """A task of answers, and a decoder."""
    generates = metric in task.metrics
    encoder = TextEncoder(
        tokenizer=base.tokenizer,
        length=config.length,
        # A prompt that is cut can still be answered, but no given answer be predicted from it.
        truncate="middle" if generates else "none",
        bad_rows="raise" if generates else "skip",
    )
    some, held_out = split(counts, task.train, task.validation)
    encoded = encoder.encode(some)
    train = fitting(encoder, encoded, counts.train)
    validation = fitting(encoder, encoder.encode(held_out), counts.validation) if held_out else {}
    test = {} if generates else fitting(encoder, encoder.encode(task.test), counts.test)
    objective = training.writing(base)
    return Subject(
        name=f"{config.model.name} on {task.name}",
        task=task.name,
        about=f"{task.about} Of them those of at most {config.length} tokens. "
        f"{counted(*(count(part) if part else 0 for part in (train, validation, test)))}",
        shown=plan.describe_text_task(task, encoded, train, encoder),
        metric=metric,
        base=base,
        objective=objective,
        train=train,
        validation=validation,
        test=test,
        own=own_texts(base, counts.own, config.length) if counts.own else None,
        inputs=objective.inputs(config.batch_size, config.length),
        encoder=encoder,
        asked=spread(task.test, counts.test),
    )


def split(
    counts: Counts, train: Sequence[Record], validation: Sequence[Record]
) -> tuple[Sequence[Record], Sequence[Record]]:
    """Examples to train on and others to choose by, `draws` as many as are wanted of each.

    A task without a validation part gives up some of its training examples for it.
    """
    if not validation and counts.validation:
        if counts.validation >= len(train):
            raise ValueError(
                f"{counts.validation} validation examples are asked for: the task has no "
                f"validation part, and fewer than its {len(train):,} training examples are needed"
            )
        train, validation = shuffled_split(train, counts.validation / len(train), seed=0)
    return (
        spread(train, counts.draws * counts.train),
        spread(validation, counts.draws * counts.validation),
    )


def fitting(encoder: TextEncoder, encoded: EncodedTexts, most: int) -> Rows:
    """The examples that are not too long, at most so many, each in a row of its own."""
    if not encoded.examples:
        raise ValueError(f"length = {encoder.length}: no example of the task is as short as that")
    return pad(spread(encoded.examples, most), encoder.length)


def counted(train: int, validation: int, test: int) -> str:
    """Says how many examples are used."""
    return (
        f"{train:,} to train on, {validation:,} to choose learning rates by, {test:,} to test on, "
        "evenly spread over what there is."
    )
