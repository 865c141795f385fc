"""What a run on texts reads: a task, encoded for its decoder, and the batches that it trains on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from lora_jax import hub, training
from lora_jax.data import (
    EncodedTexts,
    LazyExamples,
    TextEncoder,
    TextRecord,
    TextTask,
    bucketed_batches,
    efficiency,
    is_text_task,
    load_text_task,
    pack,
    pad,
    streamed_batches,
    survey,
    training_batches,
)
from lora_jax.data.buckets import check_lengths
from lora_jax.data.lazy_examples import Survey
from lora_jax.data.loader import Batches
from lora_jax.data.packing import Rows
from lora_jax.data.split import spread, spread_rows
from lora_jax.reports import plan
from lora_jax.training.processes import gather_parts

SHOWN = 1000  # examples that a streamed set is described by


class Texts(NamedTuple):
    """A task as a decoder reads it.

    Attributes:
      task: its records, which a cache holds on disk.
      encoder: what makes tokens of them.
      tests: the records that are tested on.
      test: the same, encoded.
      rows: which of the training records are trained on.
      train: the same, encoded; of a streamed set, what a survey of this process's part found.
    """

    task: TextTask
    encoder: TextEncoder
    tests: list[TextRecord]
    test: EncodedTexts
    rows: list[int]
    train: EncodedTexts | Survey


class TrainingSet(NamedTuple):
    """What is trained on.

    Attributes:
      batches: an endless stream.
      tokens: real ones of a batch, on average.
      skipped: place and fault of the records that were left out.
    """

    batches: Batches
    tokens: float
    skipped: tuple[str, ...]


def check(config: ConfigDict) -> None:
    """Refuses a task that there is not, and settings of batches that do not go together."""
    is_text_task(config.task.name)
    if config.packing and (config.buckets or config.stream):
        raise ValueError(
            "buckets and stream are for rows of one example each, and packing fills rows with "
            "several: set packing=False, or neither of the two"
        )
    if config.cache and not config.stream:
        raise ValueError("cache holds records for a set that is streamed: set stream=True, too")
    check_lengths(config.buckets, config.encoding.length)


def prepare(config: ConfigDict) -> None:
    """Writes the records of a task to its cache once, whatever the number of processes."""
    if config.cache:
        with training.together("preparing the records"):
            if training.is_first():
                load(config)


def load(config: ConfigDict) -> TextTask:
    """Finds the records of the task."""
    options = config.task.options.to_dict()
    return load_text_task(config.task.name, options, cache=config.cache or None)


def read(config: ConfigDict, base: hub.Pretrained) -> Texts:
    """Reads and encodes the records: all of them, or this process's part of a streamed set."""
    longest = getattr(base.config, "max_length", None)
    if longest is not None and config.encoding.length > longest:
        raise ValueError(
            f"encoding.length = {config.encoding.length}, but {config.model.name or 'the model'} "
            f"reads at most {longest} tokens"
        )
    task = load(config)
    encoder = TextEncoder(tokenizer=base.tokenizer, **config.encoding.to_dict())
    tests = spread(task.test, config.evaluation_examples)
    rows = spread_rows(len(task.train), config.train_examples)
    train: EncodedTexts | Survey
    if config.stream:
        mine = rows[jax.process_index() :: jax.process_count()]
        train = survey(encoder, task.train, mine)
    else:
        train = encoder.encode([task.train[row] for row in rows])
    return Texts(task, encoder, tests, encoder.encode(tests), rows, train)


def fill(config: ConfigDict, encoded: EncodedTexts) -> Rows:
    """Makes rows of one length."""
    return (pack if config.packing else pad)(encoded.examples, config.encoding.length)


def training_set(config: ConfigDict, texts: Texts, rows: Sequence[int]) -> TrainingSet:
    """Makes the batches, of which this process reads some rows; all call it alike."""
    size, how = config.batch_size, {"seed": config.seed, "rows": rows}
    if isinstance(texts.train, Survey):
        sizes = gather_parts(texts.train.sizes, len(texts.rows))
        examples = LazyExamples(texts.encoder, texts.task.train, texts.rows, sizes)
        lengths = [*config.buckets, config.encoding.length]
        stream = streamed_batches(examples, lengths, size, **how)
        return TrainingSet(stream, stream.tokens, left_out(texts, texts.train, sizes))
    filled = fill(config, texts.train)
    if config.buckets:
        bucketed = bucketed_batches(filled, config.buckets, size, **how)
        return TrainingSet(bucketed, bucketed.tokens, texts.train.skipped)
    tokens = size * config.encoding.length * efficiency(filled)
    return TrainingSet(training_batches(filled, size, **how), tokens, texts.train.skipped)


def left_out(texts: Texts, found: Survey, sizes: np.ndarray) -> tuple[str, ...]:
    """What no process could encode; only this one's own faults are known here."""
    others = np.count_nonzero(sizes == 0) - len(found.skipped)
    named = (f"{others:,} records that other processes left out",) if others else ()
    return (*found.skipped, *named)


def shapes(config: ConfigDict) -> dict[str, jax.ShapeDtypeStruct]:
    """A batch of the longest rows."""
    shape = jax.ShapeDtypeStruct((config.batch_size, config.encoding.length), "int32")
    return dict.fromkeys(("ids", "trained", "segments"), shape)


def describe(config: ConfigDict, texts: Texts, train: TrainingSet) -> str:
    """Describes the task and its batches, for the plan."""
    encoded, said = texts.train, []
    if isinstance(encoded, Survey):
        some = spread(texts.rows, SHOWN)
        encoded = texts.encoder.encode([texts.task.train[row] for row in some])
        said = [f"streamed; of its {len(texts.rows):,} records, {len(some):,} are described here:"]
    rows = fill(config, encoded)
    said.append(plan.describe_text_task(texts.task, encoded, rows, texts.encoder))
    return "\n".join((*said, train.batches.describe()))
