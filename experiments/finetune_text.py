"""One run: a pretrained decoder learns to answer texts with texts, by LoRA or as a whole.

    python -m experiments.finetune_text --config=configs/stories.py:e2e_nlg --workdir=runs/e2e_nlg

Before and after training it computes the loss on the test set, generates answers to it, and scores
these by the metrics of the task. The same command resumes a run that was stopped or killed, and
ends with the same bits. Writes config.json, metrics.jsonl, checkpoints/, adapter/ (PEFT's files),
predictions.json, results.json and report.html. `--resume`, `--tensorboard`, `--wandb` and
`--profile` as in `experiments.finetune`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict
from rich.console import Console

import lora_jax as lora
from experiments import adapter, text_data
from experiments.finetune import (
    MAY_CHANGE,
    define_flags,
    describe_training,
    find_speed,
    make_sinks,
)
from experiments.finetune_text_report import Scored, write_report
from experiments.launch import launch
from experiments.settings import check_counts
from lora_jax import hub, training
from lora_jax.data.names import known
from lora_jax.evaluation import BeamSearch, answer, score_answers
from lora_jax.reports import plan
from lora_jax.training.language_model import (
    RULES,
    has_frozen_head,
    init_variables,
    loss,
    make_outputs,
    score,
)


def defaults() -> ConfigDict:
    """Every setting of a run; a config overrides some of them."""
    config = ConfigDict()
    config.task = ConfigDict({"name": ""})
    config.task.options = ConfigDict()
    config.model = ConfigDict({"name": "", "path": "", "sha256": ""})
    config.model.update(dtype="float32", scan=False, remat="none")
    config.model.attention = "plain"  # "auto": the best for the device
    config.encoding = ConfigDict({"length": 512, "template": "plain", "separator": "\n"})
    config.encoding.update(instruction="", end="", train_on="turns", truncate="none")
    config.encoding.bad_rows = "raise"
    config.packing = True  # several examples in a row, none of them split
    # Without packing: lengths that the rows of a batch may have, besides that of `encoding`; and
    # whether records are read and encoded only when it is their turn, by each process its own,
    # from what is written to the directory `cache` once.
    config.buckets = ()
    config.stream = False
    config.cache = ""
    config.train = "lora"  # or "full"
    config.targets = ("q_proj", "v_proj")
    config.method = ConfigDict({"name": "LoRA", "rank": 8, "alpha": 16.0, "dropout": 0.0})
    config.adapter = ""  # PEFT's files, such as adapter/ of another run, to start from
    # Devices by what they split; -1: all that the others leave. It changes no number.
    config.mesh = ConfigDict({"data": -1, "fsdp": 1, "tensor": 1})
    config.seed = 0
    config.steps = 300
    config.batch_size = 16  # rows
    config.micro_batches = 1  # parts of a batch that are computed one after another
    config.optimizer = ConfigDict({"name": "adamw", "learning_rate": 1e-3, "schedule": "linear"})
    config.optimizer.update(warmup=0.1, warmup_tokens=0, decay=0.1, final=0.0)
    config.optimizer.update(weight_decay=0.01, no_decay=(), clip=1.0, spike=0.0)
    config.optimizer.update(lora_plus=0.0, ema=0.0)
    config.optimizer.groups = ConfigDict()
    config.label_smoothing = 0.0  # share of a target that is spread over the vocabulary
    config.train_examples = 0  # at most; 0: all
    config.evaluation_examples = 0  # of the test set, evenly spread over it, at most; 0: all
    config.evaluation_batch_size = 32
    config.max_new_tokens = 0  # of an answer; 0: as many as the task says
    # Of answers: greedy, or a beam search whose score is over length ** length_penalty.
    config.decoding = ConfigDict({"beams": 1, "length_penalty": 1.0, "no_repeat_ngram": 0})
    config.evaluate_every = 0  # steps; the loss alone, on the test set. 0: at the end
    config.checkpoint_every = 100
    config.keep = 2  # checkpoints
    config.on_nonfinite = "stop"  # or "skip" the step
    config.lock()
    return config


def main(
    config: ConfigDict,
    workdir: Path | None,
    resume: training.Resume = "auto",
    tensorboard: bool = False,
    wandb: bool = False,
    profile: bool = False,
) -> None:
    """Trains, or prints the plan if there is no workdir."""
    console = Console(highlight=False, soft_wrap=True, quiet=not training.is_first())
    check(config, workdir, resume)
    sinks = make_sinks(config, tensorboard, wandb)

    mesh = training.make_mesh(config.mesh)
    rows = training.process_rows(mesh, config.batch_size, config.micro_batches)
    training.check_batch(mesh, "evaluation_batch_size", config.evaluation_batch_size)

    # ---- The task and the frozen base
    text_data.prepare(config)
    with training.together("reading the task and the base"):
        base = load_base(config, mesh)
        texts = text_data.read(config, base)
        test_set = text_data.fill(config, texts.test)
    train_set = text_data.training_set(config, texts, rows)
    task, shapes = texts.task, text_data.shapes(config)

    # ---- What trains, beside what is frozen
    lifted = lift(config, base) if config.train == "lora" else None
    key = jax.random.key(config.seed)
    init = lambda base, key: init_variables(base, lifted, key)
    variables = training.place(mesh, base, init, key, lifted.sites if lifted else ())
    variables = adapter.start_from(config, lifted, variables)
    labels = training.label(variables, RULES[config.train], lifted.frozen if lifted else ())
    optimizer = training.make_optimizer(config.optimizer, labels, config.steps, train_set.tokens)
    outputs = make_outputs(base, lifted)
    state, frozen, shardings = training.place_state(mesh, variables, labels, optimizer, key)
    trained = make_outputs(
        base,
        lifted,
        frozen_head=has_frozen_head(base, lifted),
        smoothing=config.label_smoothing,
    )
    step = training.make_step(partial(loss, trained), optimizer, shardings, config.micro_batches)
    del variables  # the step donates the trainable ones
    console.print(f"parameters: {training.summary(training.join(state.trainable, frozen), labels)}")

    if workdir is None:
        console.print(adapter.describe(config, lifted), markup=False)
        console.print(text_data.describe(config, texts, train_set), markup=False)
        console.print(plan.describe_cost(step, state, frozen, shapes))
        console.print(describe_training(config, optimizer, train_set.tokens, None), markup=False)
        return

    # ---- Where it starts
    with training.together("opening the workdir"):
        if training.is_first():
            training.open_workdir(workdir, config.to_dict(), ignore=MAY_CHANGE)
    evaluate = partial(
        score, training.on_mesh(mesh, outputs), test_set, config.evaluation_batch_size
    )
    examine = partial(measure, config, base, texts, lifted, evaluate)
    # Before the first step, which takes the arrays of a base that is trained as a whole.
    identity = training.describe_run(
        base=config.model.sha256 or hub.hash_params(base.params),
        method=adapter.method_of(config) if lifted else None,
        targets=[site.path for site in lifted.sites] if lifted else (),
        train=config.train,
        seed=config.seed,
    )
    start = examine(training.join(state.trainable, frozen))
    console.print(f"at the start: {start.summary(task.metric)}")

    # ---- Training
    result = training.train(
        step,
        state,
        frozen,
        train_set.batches,
        steps=config.steps,
        workdir=workdir,
        identity=identity,
        evaluate=evaluate,
        evaluate_every=config.evaluate_every,
        checkpoint_every=config.checkpoint_every,
        batch_sharding=shardings.batch,
        keep=config.keep,
        on_nonfinite=config.on_nonfinite,
        resume=resume,
        sinks=sinks,
        profile=profile,
        speed=None if config.buckets else find_speed(step, state, frozen, shapes),
        console=console,
    )

    # ---- Where it ends
    final = training.join(result.state.trainable, frozen)
    end = examine(final)
    adapter.save(console, workdir, config, lifted, final)
    if training.is_first():
        skipped = (*task.skipped, *train_set.skipped, *texts.test.skipped)
        write_report(workdir, config, task, texts.tests, result, start, end, skipped)
        console.print(f"at the end: {end.summary(task.metric)}; {workdir / 'report.html'}")


def check(config: ConfigDict, workdir: Path | None, resume: training.Resume) -> None:
    """Refuses settings that could only fail later."""
    training.check_resume(workdir, resume)
    check_counts(config, "steps")
    known(config.train, RULES, "choice of train")
    known(config.on_nonfinite, ("stop", "skip"), "choice of on_nonfinite")
    search_of(config)
    text_data.check(config)


def load_base(config: ConfigDict, mesh: jax.sharding.Mesh) -> hub.Pretrained:
    """Reads the frozen decoder."""
    how = config.model.attention
    chosen = {} if how == "plain" else {"attention": how}  # of which not every family has a choice
    return hub.load_model(
        config.model.path,
        dtype=config.model.dtype,
        sha256=config.model.sha256 or None,
        scan=config.model.scan,
        remat=config.model.remat,
        mesh=mesh,
        **chosen,
    )


def lift(config: ConfigDict, base: hub.Pretrained) -> lora.Lifted:
    """Puts the adapter's factors beside the params of the decoder."""
    ids = jax.ShapeDtypeStruct((config.batch_size, config.encoding.length), "int32")
    return lora.lift(
        base.apply, base.params, ids, method=adapter.method_of(config), targets=config.targets
    )


def measure(
    config: ConfigDict,
    base: hub.Pretrained,
    texts: text_data.Texts,
    lifted: lora.Lifted | None,
    evaluate: Callable[[Mapping[str, Any]], dict[str, float]],
    variables: Mapping[str, Any],
) -> Scored:
    """Computes the loss, and the metrics of answers that the merged model generates."""
    losses = evaluate(variables)
    if not texts.task.metrics:
        return Scored(losses, {}, [])
    answers = answer(
        base._replace(params=merge(lifted, variables)),
        texts.encoder,
        texts.tests,
        max_new_tokens=config.max_new_tokens or texts.task.max_new_tokens,
        batch_size=config.evaluation_batch_size,
        search=search_of(config),
    )
    return Scored(losses, score_answers(texts.task.metrics, answers, texts.tests), answers)


def merge(lifted: lora.Lifted | None, variables: Mapping[str, Any]) -> dict[str, Any]:
    """The params of a plain model, for generation with its cache."""
    params = variables["params"]
    if lifted is not None:
        params = jax.jit(lifted.merge)(params, variables["adapter"])
    return training.gather_whole(params)  # all processes generate the same


def search_of(config: ConfigDict) -> BeamSearch | None:
    """How answers are looked for; None is greedy."""
    if config.decoding.beams == 1:
        return None
    return BeamSearch(**config.decoding.to_dict())


if __name__ == "__main__":
    launch(main, None, **define_flags())
