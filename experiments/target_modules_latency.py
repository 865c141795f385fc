"""How long each set of target modules takes, and the ranks at which sets take equally long."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from experiments.target_modules_bench import Bench
from experiments.target_modules_outcome import main_latency
from experiments.target_modules_runs import Lifts
from lora_jax.analysis import rank_within_latency
from lora_jax.evaluation import Latency, ResponseTimes
from lora_jax.training.workdir import write_json


def timed_ranks(
    config: ConfigDict,
    sets: Sequence[str],
    controls: Sequence[str],
    ranks: Mapping[str, Mapping[str, int]],
) -> dict[str, list[int]]:
    """At which ranks each set is timed: those of the controls, and a few to choose from."""
    few = config.equal_latency.ranks if "latency" in controls else ()
    return {name: sorted({*few, *(of[name] for of in ranks.values())}) for name in sets}


def keep_or_measure(
    path: Path,
    config: ConfigDict,
    bench: Bench,
    lifts: Lifts,
    timed: Mapping[str, Sequence[int]],
) -> dict[str, ResponseTimes]:
    """Times the base, every set at its ranks beside it, and every set merged into it."""
    if not path.exists():
        adapted = {f"{name} r{rank}": lifts[name, rank] for name in timed for rank in timed[name]}
        merged = {f"{name}, merged": lifts[name, timed[name][0]] for name in timed}
        print(f"timing the base, {len(adapted)} adapters beside it and {len(merged)} merged")
        found = bench.time(adapted, merged)
        seconds = {name: [t and t.seconds.tolist() for t in of] for name, of in found.items()}
        write_json(path, seconds)
    return {
        name: ResponseTimes(*(t and Latency(np.array(t)) for t in of))
        for name, of in json.loads(path.read_text()).items()
    }


def ranks_of_equal_latency(
    config: ConfigDict, timed: Mapping[str, Sequence[int]], times: Mapping[str, ResponseTimes]
) -> dict[str, int]:
    """The largest rank of each set that keeps within the budget; sets that cannot are left out."""
    base, found = main_latency(times["base"]), {}
    for name, ranks in timed.items():
        ratios = {rank: main_latency(times[f"{name} r{rank}"]).ratio_to(base) for rank in ranks}
        fit = rank_within_latency(ratios, 1 + config.equal_latency.over_base)
        if fit.rank is not None:
            found[name] = fit.rank
    return found
