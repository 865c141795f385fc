"""What the target-module study needs of a task: texts to label, or texts to write.

`label_texts` takes a pretrained encoder, whose latency is that of one forward pass (TTFT);
`write_texts` takes a pretrained decoder, timed at reading a prompt (TTFT) and at writing with its
cache (TPOT), and scored by the texts that it writes or, as `token_accuracy`, by how many tokens of
the answers it predicts. The study itself does not know which it has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from ml_collections import ConfigDict

import lora_jax as lora
from lora_jax import hub, training
from lora_jax.data import (
    Examples,
    TextEncoder,
    encode,
    evaluation_batches,
    is_text_task,
    load_task,
    load_text_task,
    pad,
)
from lora_jax.data.names import known
from lora_jax.data.split import shuffled_split, spread
from lora_jax.evaluation import (
    METRICS,
    ResponseTimes,
    TextMetric,
    answer,
    find_metric,
    measure_latency,
    measure_responses,
)
from lora_jax.reports import plan
from lora_jax.training import classifier, language_model

Variables = Mapping[str, Any]
Record = TypeVar("Record")

TOKENS = "token_accuracy"  # of the answers' tokens, each after the right ones before it


class Bench(NamedTuple):
    """A task and a pretrained base, and what is done with them.

    Attributes:
      name: of the task.
      about: where its examples come from and how they are split.
      metric: what the test set is scored by; higher is better.
      base: the pretrained model.
      train: examples to train on.
      inputs: a batch of them, as `base.apply` takes it.
      rules: what trains, by "lora", "head" (absent where there is none) and "full".
      init: `init(lifted, key)` makes variables.
      outputs: `outputs(lifted)` makes the function that is trained; None: without an adapter.
      loss: `loss(outputs, variables, batch, key)`.
      validate: the loss of plain variables on examples that are neither trained on nor tested on.
      score: `score(variables, lifted=None)`, the metric on the test set: of plain variables, or
        with an adapter beside the params.
      time: `time(adapted, merged)`: of the base, of adapters beside it, and merged into it.
    """

    name: str
    about: str
    metric: str
    base: hub.Pretrained
    train: Examples
    inputs: Sequence[np.ndarray]
    rules: Mapping[str, Sequence[tuple[str, str | None]]]
    init: Callable[[lora.Lifted | None, jax.Array], Variables]
    outputs: Callable[[lora.Lifted | None], Callable[..., Any]]
    loss: Callable[..., Any]
    validate: Callable[[Variables], float]
    score: Callable[..., float]
    time: Callable[..., dict[str, ResponseTimes]]


def load(config: ConfigDict) -> Bench:
    """Reads the task and the base that a config names."""
    base = hub.load_model(
        config.model.path,
        dtype=config.model.dtype,
        sha256=config.model.sha256 or None,
        scan=config.model.scan,
    )
    make = write_texts if is_text_task(config.task.name) else label_texts
    return make(config, base)


def label_texts(config: ConfigDict, base: hub.Pretrained) -> Bench:
    """A task of labels, an encoder, and a new head."""
    task = load_task(config.task.name, config.task.options.to_dict())
    metrics = (task.metric, "accuracy") if task.classes else (task.metric, "pearson", "spearman")
    metric = known(config.metric or task.metric, metrics, f"metric of task {task.name!r}")
    train, validation = parts(config, task.train, task.validation)
    tests = spread(task.test, config.test_examples)
    encoded = partial(encode, tokenizer=base.tokenizer, length=config.length)
    train_set, test_set = encoded(train), encoded(tests)
    outputs = partial(classifier.make_outputs, base, pooling=config.pooling)
    plain = jax.jit(outputs(None))

    @jax.jit
    def loss_of(variables: Variables, batch: Any) -> jax.Array:
        return classifier.loss(outputs(None), variables, batch, jax.random.key(0))[0]

    def validate(variables: Variables) -> float:
        rows = min(config.evaluation_batch_size, len(validation))
        # A last batch that is not full would count its repeated rows.
        batches = [b for b, real in evaluation_batches(encoded(validation), rows) if real == rows]
        return float(np.mean([loss_of(variables, batch) for batch in batches]))

    def score(variables: Variables, lifted: lora.Lifted | None = None) -> float:
        answers = plain if lifted is None else jax.jit(outputs(lifted))
        rows, scored = config.evaluation_batch_size, task._replace(metric=metric)
        return classifier.score(answers, scored, test_set, rows, variables)[metric]

    def time(
        adapted: Mapping[str, lora.Lifted], merged: Mapping[str, lora.Lifted]
    ) -> dict[str, ResponseTimes]:
        batch, _ = next(evaluation_batches(test_set, config.latency.batch_size))
        batch = jax.device_put(batch)
        head = partial(classifier.init_variables, base, outputs=1, key=jax.random.key(0))
        calls = {"base": partial(plain, head(None), batch)}
        for name, lifted in adapted.items():
            calls[name] = partial(jax.jit(outputs(lifted)), head(lifted), batch)
        for name, lifted in merged.items():
            calls[name] = partial(plain, merge(lifted, head(lifted)), batch)
        found = measure_latency(calls, rounds=config.latency.rounds)
        return {name: ResponseTimes(latency) for name, latency in found.items()}

    return Bench(
        name=task.name,
        about="\n".join([plan.describe_task(task, train_set, base.tokenizer), said_of(len(tests))]),
        metric=metric,
        base=base,
        train=train_set,
        inputs=[train_set[name][: config.batch_size] for name in ("ids", "mask", "type_ids")],
        rules={"lora": training.LORA, "head": training.HEAD_ONLY, "full": training.FULL},
        init=lambda lifted, key: classifier.init_variables(base, lifted, task.outputs, key),
        outputs=outputs,
        loss=classifier.loss,
        validate=validate,
        score=score,
        time=time,
    )


def write_texts(config: ConfigDict, base: hub.Pretrained) -> Bench:
    """A task of answers, and a decoder that writes them with its KV cache."""
    task = load_text_task(config.task.name, config.task.options.to_dict())
    metrics = [*(name for name in task.metrics if rises(name)), TOKENS]
    metric = known(config.metric or task.metric, metrics, f"metric of task {task.name!r}")
    train, validation = parts(config, task.train, task.validation)
    tests = spread(task.test, config.test_examples)
    predicts = metric == TOKENS
    encoder = TextEncoder(
        tokenizer=base.tokenizer,
        length=config.length,
        # A prompt that is cut can still be answered, but no given answer be predicted from it.
        truncate="none" if predicts else "middle",
        bad_rows="skip" if predicts else "raise",
    )
    encoded = encoder.encode(train)
    rows_of = lambda records: pad(encoder.encode(records).examples, config.length)
    train_set = pad(encoded.examples, config.length)
    held_out = rows_of(validation) if validation else {}
    test_set = rows_of(tests) if predicts else {}
    outputs = partial(language_model.make_outputs, base)
    plain = jax.jit(outputs(None))

    def predict(examples: Examples, found: Callable[..., Any], variables: Variables) -> Any:
        return language_model.score(found, examples, config.evaluation_batch_size, variables)

    def validate(variables: Variables) -> float:
        return predict(held_out, plain, variables)["loss"]

    def score(variables: Variables, lifted: lora.Lifted | None = None) -> float:
        if predicts:
            found = plain if lifted is None else jax.jit(outputs(lifted))
            return predict(test_set, found, variables)[TOKENS]
        plain_model = base._replace(params=variables["params"])
        texts = answer(
            base._replace(apply=beside(lifted), params=dict(variables)) if lifted else plain_model,
            encoder,
            tests,
            max_new_tokens=config.new_tokens,
            batch_size=config.evaluation_batch_size,
        )
        return find_metric(metric)(texts, [list(record.accepted) for record in tests])

    def time(
        adapted: Mapping[str, lora.Lifted], merged: Mapping[str, lora.Lifted]
    ) -> dict[str, ResponseTimes]:
        new = config.latency.new_tokens
        timed = TextEncoder(tokenizer=base.tokenizer, length=config.length + new, truncate="middle")
        prompts, _, _ = timed.prompts(tests[:1] * config.latency.batch_size, new)
        init = partial(language_model.init_variables, base, key=jax.random.key(0))
        contenders = {"base": (base.apply, base.params)}
        for name, lifted in adapted.items():
            contenders[name] = (beside(lifted), init(lifted))
        for name, lifted in merged.items():
            contenders[name] = (base.apply, merge(lifted, init(lifted))["params"])
        return measure_responses(
            contenders,
            base.config,
            prompts.ids,
            new_tokens=new,
            rounds=config.latency.rounds,
        )

    about = plan.describe_text_task(task, encoded, train_set, encoder)
    return Bench(
        name=task.name,
        about="\n".join([about, said_of(len(test_set["ids"]) if predicts else len(tests))]),
        metric=metric,
        base=base,
        train=train_set,
        inputs=[train_set["ids"][: config.batch_size]],
        rules={
            "lora": (("adapter/.*", "adapter"), ("params/.*", None)),
            "full": (("params/.*", "params"),),
        },
        init=lambda lifted, key: language_model.init_variables(base, lifted, key),
        outputs=outputs,
        loss=language_model.loss,
        validate=validate,
        score=score,
        time=time,
    )


def parts(
    config: ConfigDict, train: Sequence[Record], validation: Sequence[Record]
) -> tuple[Sequence[Record], Sequence[Record]]:
    """Examples to train on, and others to choose learning rates by; neither is tested on.

    A task without a validation part gives up some of its training examples for it, if there is
    anything to choose.
    """
    if validation:
        return (
            spread(train, config.train_examples),
            spread(validation, config.validation_examples),
        )
    count = config.validation_examples
    if not count and (config.rates_of or all(len(rates) == 1 for rates in config.rates.values())):
        return spread(train, config.train_examples), ()
    if not 0 < count < len(train):
        raise ValueError(
            f"validation_examples = {count}: the task has no validation part, so at least 1 and "
            f"fewer than its {len(train):,} training examples are needed"
        )
    left, held_out = shuffled_split(train, count / len(train), seed=0)
    return spread(left, config.train_examples), held_out


def merge(lifted: lora.Lifted, variables: Variables) -> dict[str, Any]:
    """Variables of the base that compute the same without an adapter."""
    others = {name: value for name, value in variables.items() if name != "adapter"}
    return {**others, "params": lifted.merge(variables["params"], variables["adapter"])}


def rises(metric: str) -> bool:
    """Whether a higher value of a metric of texts is better."""
    found = METRICS[metric]
    return not isinstance(found, TextMetric) or found.higher_is_better


def said_of(tests: int) -> str:
    """How many of the test examples are used."""
    return f"  scored on {tests:,} test examples, evenly spread"


def beside(lifted: lora.Lifted) -> Callable[..., Any]:
    """The decoder with its adapter, as a function of both."""

    def apply(variables: Variables, *args: Any, **named: Any) -> Any:
        return lifted(variables["params"], variables["adapter"], *args, **named)

    return apply
