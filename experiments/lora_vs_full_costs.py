"""What a run of LoRA and one of full fine-tuning take, each alone: memory, and time of a step."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from experiments.joint import FULL, LORA, Choice, adapt
from experiments.subject import Subject
from lora_jax import training
from lora_jax.analysis.memory import total_bytes
from lora_jax.data import training_batches
from lora_jax.reports import Column, Section, html

COSTS = (
    "Of one run alone in the usual setting. Checkpoint: the weights that trained. Peak: arguments, "
    "results and temporaries of the compiled step, as XLA lays it out for CPU. Seconds: median of "
    "{steps} steps, both by turns."
)
COST_COLUMNS = [
    Column("name", "trained"),
    Column("checkpoint", "checkpoint, MiB", "{:.2f}"),
    Column("optimizer", "optimiser state, MiB", "{:.2f}"),
    Column("temporaries", "temporaries, MiB", "{:.1f}"),
    Column("peak", "peak of a step, MiB", "{:.1f}"),
    Column("step", "step, ms", "{:.1f}"),
]


class Cost(NamedTuple):
    """Bytes of a run alone, and the seconds of some of its steps."""

    name: str
    trained: int
    optimizer: int
    frozen: int
    temporaries: int
    peak: int
    seconds: list[float]


def measure_costs(config: ConfigDict, about: Subject, lora: Choice, full: Choice) -> list[Cost]:
    """Compiles one run of each, and times their steps by turns."""
    prepared = [prepare(config, about, choice) for choice in (lora, full)]
    seconds: list[list[float]] = [[], []]
    for turn in range(config.timed_steps + 1):
        for which, (step, state, frozen, batch) in enumerate(prepared):
            started = time.perf_counter()
            after = jax.block_until_ready(step(state, frozen, batch))[0]
            prepared[which] = (step, after, frozen, batch)
            if turn:  # the first of each may still be warming up
                seconds[which].append(time.perf_counter() - started)
    return [
        make_cost(kind, *one, times)
        for kind, one, times in zip((LORA, FULL), prepared, seconds, strict=True)
    ]


def prepare(config: ConfigDict, about: Subject, choice: Choice) -> tuple[Any, Any, Any, Any]:
    """The compiled step of a run alone, its state, what is frozen, and a batch."""
    lifted = adapt(about, choice)
    learns = about.objective
    variables = learns.init(lifted, jax.random.key(0))
    labels = training.label(variables, learns.rules[choice.kind])
    settings = {**config.optimizer.to_dict(), "learning_rate": config.rates[choice.kind][0]}
    optimizer = training.make_optimizer(settings, labels, config.steps)
    state, frozen = training.init_state(variables, labels, optimizer, jax.random.key(0))
    step: Any = training.make_step(partial(learns.loss, learns.outputs(lifted)), optimizer)
    batch = next(training_batches(about.train, choice.batch_size, seed=0))
    return step.lower(state, frozen, batch).compile(), state, frozen, batch


def make_cost(
    kind: str,
    step: Any,
    state: training.TrainState,
    frozen: Any,
    batch: Any,
    times: Sequence[float],
) -> Cost:
    """Gathers what a run of a kind takes."""
    memory = step.memory_analysis()
    return Cost(
        name=kind,
        trained=total_bytes(state.trainable),
        optimizer=total_bytes(state.opt_state),
        frozen=total_bytes(frozen),
        temporaries=memory.temp_size_in_bytes,
        peak=memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes,
        seconds=[float(x) for x in times],
    )


def cost_lines(costs: Sequence[Cost]) -> list[dict]:
    """The costs as the table shows them, in MiB and milliseconds."""
    mebibytes = lambda count: count / 2**20
    return [
        {
            "name": cost.name,
            "checkpoint": mebibytes(cost.trained),
            "optimizer": mebibytes(cost.optimizer),
            "temporaries": mebibytes(cost.temporaries),
            "peak": mebibytes(cost.peak),
            "step": 1000 * float(np.median(cost.seconds)),
        }
        for cost in costs
    ]


def costs_section(config: ConfigDict, costs: Sequence[Cost]) -> Section:
    """The costs, and how they were measured."""
    said = html.paragraph(COSTS.format(steps=config.timed_steps))
    return Section("Costs", [html.table(cost_lines(costs), COST_COLUMNS), said])
