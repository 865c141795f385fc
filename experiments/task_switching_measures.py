"""What `task_switching` measures: times, the base after many switches, mixed batches, mixtures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

import lora_jax as lora
from experiments.encoder_adapters import TaskSets
from experiments.settings import listed
from lora_jax import hub
from lora_jax.adapters.low_rank import weights_by_path
from lora_jax.adapters.route import Routed, gather
from lora_jax.evaluation import Latency, measure_latency
from lora_jax.training.classifier import make_outputs, score


class Switchable(NamedTuple):
    """Adapters of one lift over one base.

    Attributes:
      base: the model.
      lifted: its function with the sites of all adapters.
      names: of the adapters.
      factors: of each.
      folders: where each is kept.
      inputs: a batch, as the function takes it.
    """

    base: hub.Pretrained
    lifted: lora.Lifted
    names: list[str]
    factors: list[Any]
    folders: list[Path]
    inputs: tuple[jax.Array, ...]


class Restoration(NamedTuple):
    """The base after cycles in which every adapter is merged and taken out again.

    Attributes:
      is_base_identical: whether its hash is the same after all cycles, where W is kept.
      are_outputs_identical: whether its outputs are, bit by bit.
      is_merge_repeatable: whether the last merge of the first adapter has the bits of the first.
      drift: of a base that is not kept but taken out of the merged weights by subtraction, after
        each cycle: the largest |W' − W| over all adapted weights.
      changed: the share of their entries whose bits differ, after each cycle.
    """

    is_base_identical: bool
    are_outputs_identical: bool
    is_merge_repeatable: bool
    drift: tuple[float, ...]
    changed: tuple[float, ...]


class Mixed(NamedTuple):
    """A batch whose rows have different adapters.

    Attributes:
      rows: of the batch.
      difference: the largest from each row alone with its adapter, over all outputs.
      scale: the largest output.
      together: time of the mixed batch in one call.
      apart: time of the same rows, one call for each adapter.
    """

    rows: int
    difference: float
    scale: float
    together: Latency
    apart: Latency


def measure_switches(given: Switchable, rounds: int) -> dict[str, Latency]:
    """Times ways to switch, and calls before and after, all in turn."""
    base, lifted, inputs = given.base, given.lifted, given.inputs
    stacked = lora.stack(given.factors)
    merge = jax.jit(lifted.merge)
    swap = jax.jit(lambda merged, old, new: lifted.merge(lifted.unmerge(merged, old), new))
    pick = jax.jit(gather)
    plain, adapted = jax.jit(base.apply), jax.jit(lifted)
    by_index = jax.jit(lambda p, stacked, i, *args: lifted(p, gather(stacked, i), *args))
    first, second = given.factors[:2]
    merged = merge(base.params, first)
    # Numbers of adapters as arrays on the device, so that no call compiles anew.
    numbers = [jnp.asarray(i) for i in range(len(given.names))]
    turn = iter(numbers * (2 * (rounds + 4)))
    calls: dict[str, Callable[[], Any]] = {
        "switch: an index into the stack": lambda: pick(stacked, next(turn)),
        "switch: merge anew, W kept": lambda: merge(base.params, second),
        "switch: unmerge, then merge": lambda: swap(merged, first, second),
        "switch: read PEFT's files": partial(hub.load_peft, given.folders[0], lifted),
        "call: the base": lambda: plain(base.params, *inputs),
        "call: merged": lambda: plain(merged, *inputs),
        "call: one adapter beside W": lambda: adapted(base.params, first, *inputs),
        "call: another adapter each time": lambda: by_index(
            base.params, stacked, next(turn), *inputs
        ),
    }
    return measure_latency(calls, rounds=rounds)


def measure_restoration(given: Switchable, cycles: int) -> Restoration:
    """Switches many times, with W kept and with W taken out of the merged weights."""
    params, lifted = given.base.params, given.lifted
    before, outputs = hub.hash_params(params), jax.jit(given.base.apply)
    answers = np.asarray(outputs(params, *given.inputs))
    merge, unmerge = jax.jit(lifted.merge), jax.jit(lifted.unmerge)
    paths = [site.path for site in lifted.sites]
    own = {path: np.asarray(weights_by_path(params)[path]) for path in paths}
    first = hub.hash_params(merge(params, given.factors[0]))
    subtracted, drift, changed = params, [], []
    for _ in range(cycles):
        for factors in given.factors:
            merge(params, factors)
            subtracted = unmerge(merge(subtracted, factors), factors)
        found = weights_by_path(subtracted)
        differences = [np.asarray(found[path]) - own[path] for path in paths]
        drift.append(float(max(np.abs(d).max() for d in differences)))
        entries = sum(d.size for d in differences)
        changed.append(sum(int((d != 0).sum()) for d in differences) / entries)
    return Restoration(
        is_base_identical=hub.hash_params(params) == before,
        are_outputs_identical=np.array_equal(np.asarray(outputs(params, *given.inputs)), answers),
        is_merge_repeatable=hub.hash_params(merge(params, given.factors[0])) == first,
        drift=tuple(drift),
        changed=tuple(changed),
    )


def measure_mixed_batch(given: Switchable, rounds: int) -> Mixed:
    """Gives each row of a batch another adapter, and compares with each row alone."""
    params, lifted = given.base.params, given.lifted
    rows, count = len(given.inputs[0]), len(given.names)
    owners = np.arange(rows) % count
    stacked = lora.stack(given.factors)
    mixed = jax.jit(lambda p, s, i, *args: Routed(lifted)(p, gather(s, i), *args))
    alone = jax.jit(lifted)
    device_owners = jnp.asarray(owners)
    together = np.asarray(mixed(params, stacked, device_owners, *given.inputs))
    one_by_one = np.concatenate(
        [
            np.asarray(alone(params, given.factors[i], *(x[row : row + 1] for x in given.inputs)))
            for row, i in enumerate(owners)
        ]
    )
    shares = [
        (given.factors[i], tuple(x[np.flatnonzero(owners == i)] for x in given.inputs))
        for i in range(min(count, rows))
    ]
    times = measure_latency(
        {
            "together": lambda: mixed(params, stacked, device_owners, *given.inputs),
            "apart": lambda: [alone(params, factors, *own) for factors, own in shares],
        },
        rounds=rounds,
    )
    return Mixed(
        rows=rows,
        difference=float(np.abs(together - one_by_one).max()),
        scale=float(np.abs(one_by_one).max()),
        together=times["together"],
        apart=times["apart"],
    )


def measure_interference(
    config: ConfigDict,
    base: hub.Pretrained,
    lifted: lora.Lifted,
    trained: Mapping[str, tuple[TaskSets, Sequence[Mapping[str, Any]]]],
) -> list[dict[str, Any]]:
    """Scores on every task of its own adapter, of none, and of all adapters in one.

    Each task keeps the head that was trained with its adapter.

    Returns:
      For each choice and task the scores, one a seed.
    """
    if not trained:
        return []
    outputs = jax.jit(make_outputs(base, None, config.pooling))
    merge = jax.jit(lifted.merge)
    combined = {
        f"{kind}, weights {weight:g}": _merge_all(config, lifted, kind, weight)
        for kind in listed(config.kinds)
        for weight in config.weights
    }
    found: dict[tuple[str, str], list[float]] = {}
    for number, seed in enumerate(config.seeds):
        trees = [variables[number]["adapter"] for _, variables in trained.values()]
        everywhere = {"no adapter": base.params}
        for choice, merge_all in combined.items():
            everywhere[choice] = merge_all(base.params, trees, jax.random.key(seed))
        for (name, (sets, variables)), own in zip(trained.items(), trees, strict=True):
            for choice, params in (
                ("its own adapter", merge(base.params, own)),
                *everywhere.items(),
            ):
                scored = score(
                    outputs,
                    sets.task,
                    sets.test,
                    config.evaluation_batch_size,
                    {"params": params, "head": variables[number]["head"]},
                )
                found.setdefault((choice, name), []).append(scored[sets.task.metric])
    return [
        {
            "name": f"{choice} on {name}",
            "choice": choice,
            "task": name,
            "metric": trained[name][0].task.metric,
            "scores": scores,
        }
        for (choice, name), scores in found.items()
    ]


def _merge_all(config: ConfigDict, lifted: lora.Lifted, kind: str, weight: float) -> Any:
    """The params with all adapters in one, compiled as one program."""
    prunes = kind not in ("cat", "linear", "svd")

    def merged(params: Any, trees: Sequence[Any], key: jax.Array) -> Any:
        both, factors = lora.combine(
            [(lifted, tree) for tree in trees],
            [weight] * len(trees),
            kind,  # type: ignore[arg-type]
            density=config.density if prunes else None,
            key=key if kind.startswith("dare") else None,
        )
        return both.merge(params, factors)

    return jax.jit(merged)
