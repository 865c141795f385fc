"""One run: a pretrained encoder learns a task by LoRA, by its head alone, or as a whole.

    python -m experiments.finetune --config=configs/finetune.py --workdir=runs/finetune

The same command resumes a run that was stopped or killed, and ends with the same bits. Writes
config.json, metrics.jsonl, checkpoints/, adapter/ (PEFT's files), predictions.json, results.json
and report.html. More flags:

    --resume=never      refuse to go on with a run that was begun (must: refuse to begin one)
    --tensorboard       curves for TensorBoard, in WORKDIR/tensorboard
    --wandb             curves for Weights & Biases
    --profile           a trace of three steps, in WORKDIR/profile
    --dry_run           only say what would be done
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
from absl import flags
from ml_collections import ConfigDict
from rich.console import Console

import lora_jax as lora
from experiments import adapter
from experiments.finetune_report import write_report
from experiments.launch import launch
from experiments.settings import check_counts
from lora_jax import hub, training
from lora_jax.analysis import chip_of
from lora_jax.data import Examples, bucketed_batches, encode, load_task, training_batches
from lora_jax.data.buckets import check_lengths
from lora_jax.data.loader import Batches
from lora_jax.nearest import nearest
from lora_jax.reports import plan
from lora_jax.training.classifier import (
    RULES,
    init_variables,
    loss,
    make_outputs,
    predict,
    score,
)

# Fields that may be other ones when a run resumes.
MAY_CHANGE = ("checkpoint_every", "keep", "mesh", "on_nonfinite")


def defaults() -> ConfigDict:
    """Every setting of a run; a config overrides some of them."""
    config = ConfigDict()
    config.task = ConfigDict({"name": "docstrings"})
    config.task.options = ConfigDict({"train_per_topic": 100, "test_per_topic": 40})
    config.model = ConfigDict({"name": "", "path": "", "sha256": ""})
    config.model.update(dtype="float32", scan=True, remat="none")
    config.pooling = "mean"
    config.length = 32  # tokens of an example
    config.buckets = ()  # shorter lengths that the rows of a batch may have, too
    # RoBERTa's classifier has a layer more, and drops out what each layer takes in.
    config.head = ConfigDict({"dense": False, "dropout": 0.0})
    config.train = "lora"  # or "head", "full"
    config.targets = ("q_proj", "v_proj")
    config.method = ConfigDict({"name": "LoRA", "rank": 8, "alpha": 16.0, "dropout": 0.0})
    config.adapter = ""  # PEFT's files, such as adapter/ of another run, to start from
    # Devices by what they split; -1: all that the others leave. It changes no number.
    config.mesh = ConfigDict({"data": -1, "fsdp": 1, "tensor": 1})
    config.seed = 0
    config.steps = 300
    config.batch_size = 16
    config.micro_batches = 1  # parts of a batch that are computed one after another
    config.optimizer = ConfigDict({"name": "adamw", "learning_rate": 1e-3, "schedule": "linear"})
    config.optimizer.update(warmup=0.1, warmup_tokens=0, decay=0.1, final=0.0)
    config.optimizer.update(weight_decay=0.01, no_decay=(), clip=1.0, spike=0.0)
    config.optimizer.update(lora_plus=0.0, ema=0.0)
    config.optimizer.groups = ConfigDict({"head": {"multiplier": 5.0}})
    config.evaluation_batch_size = 96
    config.evaluate_every = 100  # steps
    config.evaluate_average = False  # of what optimizer.ema averages
    # Keeps the checkpoint of the best "accuracy", say; so many worse ones in a row end the run.
    config.best = ConfigDict({"metric": "", "mode": "max", "patience": 0})
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
    best = training.Best(**config.best) if config.best.metric else None
    sinks = make_sinks(config, tensorboard, wandb)

    mesh = training.make_mesh(config.mesh)
    rows = training.process_rows(mesh, config.batch_size, config.micro_batches)
    training.check_batch(mesh, "evaluation_batch_size", config.evaluation_batch_size)

    # ---- The task and the frozen base
    with training.together("reading the task and the base"):
        task = load_task(config.task.name, config.task.options.to_dict())
        if best:
            check_choice("best.metric", best.metric, (task.metric,))
        base = hub.load_model(
            config.model.path,
            dtype=config.model.dtype,
            sha256=config.model.sha256 or None,
            scan=config.model.scan,
            remat=config.model.remat,
            mesh=mesh,
        )
        train_set = encode(task.train, base.tokenizer, config.length)
        test_set = encode(task.test, base.tokenizer, config.length)
    batches = make_batches(config, train_set, rows)
    shapes = {
        name: jax.ShapeDtypeStruct((config.batch_size, *x.shape[1:]), x.dtype)
        for name, x in train_set.items()
    }

    # ---- What trains, beside what is frozen
    lifted = lift(config, base) if config.train == "lora" else None
    key = jax.random.key(config.seed)
    head = {"outputs": task.outputs, "dense": config.head.dense}
    init = lambda base, key: init_variables(base, lifted, key=key, **head)
    variables = training.place(mesh, base, init, key, lifted.sites if lifted else ())
    variables = adapter.start_from(config, lifted, variables)
    labels = training.label(variables, RULES[config.train], lifted.frozen if lifted else ())
    tokens = config.batch_size * float(train_set["mask"].mean(0).sum())  # of a step
    optimizer = training.make_optimizer(config.optimizer, labels, config.steps, tokens)
    outputs = make_outputs(base, lifted, config.pooling, dropout=config.head.dropout)
    state, frozen, shardings = training.place_state(mesh, variables, labels, optimizer, key)
    step = training.make_step(partial(loss, outputs), optimizer, shardings, config.micro_batches)
    del variables  # the step donates the trainable ones
    console.print(f"parameters: {training.summary(training.join(state.trainable, frozen), labels)}")

    if workdir is None:
        console.print(adapter.describe(config, lifted), markup=False)
        console.print(
            plan.describe_task(task, train_set, base.tokenizer),
            batches.describe(),
            sep="\n",
            markup=False,
        )
        console.print(plan.describe_cost(step, state, frozen, shapes))
        console.print(describe_training(config, optimizer, tokens, best), markup=False)
        return

    # ---- Training
    with training.together("opening the workdir"):
        if training.is_first():
            training.open_workdir(workdir, config.to_dict(), ignore=MAY_CHANGE)
    tested = training.on_mesh(mesh, outputs), task, test_set, config.evaluation_batch_size
    evaluate = partial(score, *tested)
    start = evaluate(training.join(state.trainable, frozen))[task.metric]  # of a new head
    console.print(f"{task.metric} {start:.4f} at the start")
    result = training.train(
        step,
        state,
        frozen,
        batches,
        steps=config.steps,
        workdir=workdir,
        identity=training.describe_run(
            base=config.model.sha256 or hub.hash_params(base.params),
            method=adapter.method_of(config) if lifted else None,
            targets=[site.path for site in lifted.sites] if lifted else (),
            train=config.train,
            seed=config.seed,
        ),
        evaluate=evaluate,
        evaluate_every=config.evaluate_every,
        evaluate_average=config.evaluate_average,
        best=best,
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
    final = training.join(result.state.trainable, frozen)
    predicted = predict(*tested, final)
    adapter.save(console, workdir, config, lifted, final)
    if not training.is_first():
        return
    write_report(workdir, config, task, start, result, (predicted, test_set["label"]))
    console.print(
        f"{task.metric} {result.last(f'eval/{task.metric}'):.4f}; {workdir / 'report.html'}"
    )


def check(config: ConfigDict, workdir: Path | None, resume: training.Resume) -> None:
    """Refuses settings that could only fail later."""
    training.check_resume(workdir, resume)
    check_counts(config, "steps")
    check_choice("train", config.train, RULES)
    check_choice("on_nonfinite", config.on_nonfinite, ("stop", "skip"))
    check_lengths(config.buckets, config.length)


def make_batches(config: ConfigDict, examples: Examples, rows: Sequence[int]) -> Batches:
    """Makes the stream that is trained on, of which this process reads some rows."""
    how = {"seed": config.seed, "rows": rows}
    if config.buckets:
        return bucketed_batches(examples, config.buckets, config.batch_size, **how)
    return training_batches(examples, config.batch_size, **how)


def lift(config: ConfigDict, base: hub.Pretrained) -> lora.Lifted:
    """Puts the adapter's factors beside the params of the encoder."""
    ids = jax.ShapeDtypeStruct((config.batch_size, config.length), "int32")
    return lora.lift(
        base.apply,
        base.params,
        ids,
        ids,
        ids,
        method=adapter.method_of(config),
        targets=config.targets,
    )


def check_choice(field: str, value: str, choices: Collection[str]) -> None:
    """Refuses what is none of the choices."""
    if value not in choices:
        raise ValueError(f"{field} = {value!r}; nearest: {', '.join(nearest(value, choices, 3))}")


def make_sinks(config: ConfigDict, tensorboard: bool, wandb: bool) -> list[training.Sink]:
    """Says where metrics go besides metrics.jsonl."""
    sinks: list[training.Sink] = [training.TensorBoard()] if tensorboard else []
    return [*sinks, training.WandB("lora_jax", config.to_dict())] if wandb else sinks


def find_speed(
    step: Any, state: training.TrainState, frozen: Any, batch: Mapping[str, Any]
) -> training.Speed | None:
    """Counts the operations of a step, if the peak of the devices is known to compare with."""
    chip = chip_of(jax.devices()[0].device_kind)
    if chip is None:
        return None
    flops = plan.matmul_flops(step.trace(state, frozen, batch).jaxpr.jaxpr)
    return training.Speed(flops, chip.flops * jax.device_count())


def describe_training(
    config: ConfigDict, optimizer: training.Optimizer, tokens: float, best: training.Best | None
) -> str:
    """Describes what the steps will be, for the plan."""
    some = sorted({1, *(round(config.steps * part) for part in (0.1, 0.5, 0.9)), config.steps})
    rates = ", ".join(f"{float(optimizer.schedule(step - 1)):.2e} in step {step}" for step in some)
    settings = ", ".join(f"{name} {value}" for name, value in config.optimizer.to_dict().items())
    kept = f"the newest {config.keep}" + (f" and that of the best {best.metric}" if best else "")
    patience = f", {best.patience} worse ones end it" if best and best.patience else ""
    return "\n".join(
        (
            f"{config.steps} steps of {config.batch_size} examples, some {tokens:,.0f} tokens, "
            f"in {config.micro_batches} part(s)",
            f"optimizer: {settings}",
            f"learning rate: {rates}",
            f"evaluation every {config.evaluate_every or config.steps} steps{patience}; checkpoint "
            f"every {config.checkpoint_every or config.steps}, {kept} are kept",
            f"a step whose loss or gradient is not finite: {config.on_nonfinite}",
        )
    )


def define_flags() -> dict[str, flags.FlagHolder]:
    """Defines the flags besides those of `launch`."""
    return {
        "resume": flags.DEFINE_enum(
            "resume",
            "auto",
            ["auto", "never", "must"],
            "auto: from the newest checkpoint of the workdir, if there is one. never: refuse to "
            "start where there is one. must: refuse to start where there is none.",
        ),
        "tensorboard": flags.DEFINE_bool("tensorboard", False, "Write curves for TensorBoard."),
        "wandb": flags.DEFINE_bool("wandb", False, "Send curves to Weights & Biases (WANDB_MODE)."),
        "profile": flags.DEFINE_bool("profile", False, "Write a trace of three steps."),
    }


if __name__ == "__main__":
    launch(main, None, **define_flags())
