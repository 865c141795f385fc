"""What a training step takes, before it is paid for: on any mesh, of devices that are not here.

    python -m experiments.plan --config=configs/plan_gpt3_175b.py
    python -m experiments.plan --config=configs/finetune.py --devices=8 --chips=v5e,H100

The step is compiled ahead of time over shapes: no weight is read or made. Prints what each device
holds, multiplies and sends, and how long the step takes at least on chips by name. With a workdir
it writes results.json and report.html. docs/plan.md says what is exact and what is estimated.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
from absl import flags
from ml_collections import ConfigDict
from rich.console import Console

import lora_jax as lora
from experiments.adapter import method_of
from experiments.finetune import check_choice
from experiments.launch import launch
from experiments.plan_report import StepPlan, print_plan, write_report
from lora_jax import hub, models, training
from lora_jax.analysis import CHIPS, find_chip
from lora_jax.analysis.ahead import compile_ahead
from lora_jax.analysis.collectives import collectives
from lora_jax.analysis.memory import step_memory, total_bytes
from lora_jax.analysis.products import products
from lora_jax.analysis.roofline import roofline
from lora_jax.data import load_task
from lora_jax.lifting import is_packed
from lora_jax.reports.plan import matmul_flops
from lora_jax.training import classifier, language_model


def defaults() -> ConfigDict:
    """Settings of a decoder's training; one of `finetune` or `finetune_text` will do, too."""
    config = ConfigDict()
    # A published shape, a directory with config.json, or the fields of one.
    config.model = ConfigDict({"name": "", "path": "", "fields": {}, "quantize": ""})
    config.model.update(dtype="bfloat16", scan=True, remat="full")
    config.length = 2048  # tokens of a row
    config.batch_size = 64  # rows, over all devices
    config.micro_batches = 1  # parts of a batch that are computed one after another
    config.train = "lora"  # or "full"
    config.targets = ("q_proj", "v_proj")
    config.method = ConfigDict({"name": "LoRA", "rank": 4, "alpha": 4.0, "dropout": 0.0})
    config.steps = 1000
    config.optimizer = ConfigDict({"name": "adamw", "learning_rate": 2e-4})
    config.mesh = ConfigDict({"data": -1, "fsdp": 1, "tensor": 1})
    config.lock()
    return config


def main(
    config: ConfigDict, workdir: Path | None, devices: int = 0, chips: Sequence[str] = tuple(CHIPS)
) -> None:
    """Plans a step of the config's training."""
    console = Console(highlight=False)
    console.width = max(console.width, 96)  # a table that is cut says nothing
    wanted = [find_chip(name) for name in chips]
    check(config)

    # ---- The devices, none of which needs to exist
    sizes = dict(config.get("mesh", {"data": -1}))
    pretend(devices or math.prod(size for size in sizes.values() if size > 0))
    mesh = training.make_mesh(sizes)
    parts = config.get("micro_batches", 1)
    training.check_batch(mesh, "batch_size", config.batch_size, parts)

    # ---- Shapes of what trains, and of what is frozen
    base = describe_base(config.model)
    run = describe_run(config, base)
    start = lambda variables, key: training.init_state(variables, run.labels, run.optimizer, key)
    state, frozen = jax.eval_shape(start, run.variables, jax.random.key(0))
    rules, sites = models.partition_rules(base.config), run.lifted.sites if run.lifted else ()
    placed = training.variable_shardings(mesh, run.variables, rules, sites)
    shardings = training.step_shardings(mesh, placed, run.labels, run.optimizer, state)
    step: Any = training.make_step(run.loss, run.optimizer, shardings, parts)

    # ---- Compilation, and what it tells
    started = time.perf_counter()
    traced = step.trace(state, frozen, run.batch)
    compiled = compile_ahead(traced.lower(), mesh.size)
    seconds = time.perf_counter() - started
    memory = step_memory(state, frozen, run.batch, shardings, compiled)
    work, sent = products(compiled.program), collectives(compiled.program)
    plan = StepPlan(
        title=f"{name_of(config.model)}, {config.train}",
        mesh=dict(mesh.shape),
        rows=config.batch_size,
        length=length_of(config),
        trainable=count(run.variables, run.labels, trains=True),
        frozen=count(run.variables, run.labels, trains=False),
        adapter_bytes=total_bytes(run.variables.get("adapter", {})),
        checkpoint_bytes=total_bytes(state),
        memory=memory,
        flops=matmul_flops(traced.jaxpr.jaxpr),
        work=work,
        collectives=sent,
        rooflines=[roofline(chip, work, sent, memory) for chip in wanted],
        unknown_loops=compiled.program.unknown_loops,
        compile_seconds=seconds,
    )
    print_plan(console, plan)
    if workdir is not None:
        training.open_workdir(workdir, config.to_dict())
        write_report(workdir, config, plan)
        console.print(str(workdir / "report.html"))


def check(config: ConfigDict) -> None:
    """Refuses a config that is not of one run."""
    needed = ("model", "train", "targets", "method", "batch_size", "optimizer", "steps")
    if missing := [name for name in needed if name not in config]:
        raise ValueError(
            f"the config has no {', '.join(missing)}: a plan is of one run, by a config of "
            f"experiments.plan, experiments.finetune or experiments.finetune_text"
        )


def length_of(config: ConfigDict) -> int:
    """Tokens of a row."""
    return config.length if "length" in config else config.encoding.length


def pretend(devices: int) -> None:
    """Lets JAX see so many devices, before it looks for any."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", devices)
    jax.config.update("jax_enable_compilation_cache", False)  # it would hide the program


def count(variables: dict[str, Any], labels: Any, *, trains: bool) -> int:
    """Counts the parameters that train, or those that do not; one in 4 bits counts one, too."""
    weights = jax.tree.leaves(variables, is_leaf=is_packed)
    # The arrays of a quantised weight have one label.
    names = [jax.tree.leaves(part)[0] for part in jax.tree.leaves(labels, is_leaf=is_packed)]
    return sum(
        math.prod(weight.shape)
        for weight, name in zip(weights, names, strict=True)
        if (name != training.FROZEN) == trains
    )


def name_of(model: ConfigDict) -> str:
    """What to call the model."""
    return model.name or Path(model.path).name or model.fields.model_type


def describe_base(model: ConfigDict) -> hub.Pretrained:
    """The shapes of the frozen base."""
    fields = model.get("fields")
    return hub.abstract_model(
        fields.to_dict() if fields else model.path or model.name,
        dtype=model.dtype,
        quantize=model.get("quantize") or None,
        scan=model.scan,
        remat=model.get("remat", "none"),
    )


class Run(NamedTuple):
    """What is trained, on shapes.

    Attributes:
      lifted: the model with an adapter, if it has one.
      variables: all arrays.
      labels: which of them train.
      optimizer: of these labels.
      batch: one batch.
      loss: of variables, a batch and a key.
    """

    lifted: lora.Lifted | None
    variables: dict[str, Any]
    labels: Any
    optimizer: training.Optimizer
    batch: Mapping[str, jax.ShapeDtypeStruct]
    loss: Any


def describe_run(config: ConfigDict, base: hub.Pretrained) -> Run:
    """Decides what trains, as the experiment of the config would."""
    writes = hasattr(base.config, "eos_ids")
    rules = language_model.RULES if writes else classifier.RULES
    check_choice("train", config.train, rules)
    ids = jax.ShapeDtypeStruct((config.batch_size, length_of(config)), "int32")
    inputs = (ids,) if writes else (ids, ids, ids)
    lifted = None
    if config.train == "lora":
        method = method_of(config)
        lifted = lora.lift(base.apply, base.params, *inputs, method=method, targets=config.targets)
    if writes:
        init = language_model.init_variables
        still = language_model.has_frozen_head(base, lifted)
        outputs = language_model.make_outputs(base, lifted, frozen_head=still)
        loss = partial(language_model.loss, outputs)
        batch = {"ids": ids, "trained": ids, "segments": ids}
    else:
        task = load_task(config.task.name, config.task.options)
        label = "int32" if task.classes else "float32"
        init = partial(classifier.init_variables, outputs=task.outputs)
        loss = partial(classifier.loss, classifier.make_outputs(base, lifted, config.pooling))
        batch = {"ids": ids, "mask": ids, "type_ids": ids}
        batch["label"] = jax.ShapeDtypeStruct((config.batch_size,), label)
    make = lambda params, key: init(base._replace(params=params), lifted, key=key)
    variables = jax.eval_shape(make, base.params, jax.random.key(0))
    labels = training.label(variables, rules[config.train], lifted.frozen if lifted else ())
    tokens = ids.size  # of a step, if no row is padded
    optimizer = training.make_optimizer(config.optimizer, labels, config.steps, tokens)
    return Run(lifted, variables, labels, optimizer, batch, loss)


if __name__ == "__main__":
    _DEVICES = flags.DEFINE_integer("devices", 0, "How many devices; default: those of the mesh.")
    _CHIPS = flags.DEFINE_list("chips", list(CHIPS), "Chips to estimate the time of a step on.")

    def run(config: ConfigDict, workdir: Path | None) -> None:
        """Plans with the flags."""
        main(config, workdir, _DEVICES.value, _CHIPS.value)

    launch(run, plan=lambda config: run(config, None))
