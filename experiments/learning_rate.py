"""Which learning rate? A grid of rates and ranks, beside full fine-tuning, in one sweep each.

    python -m experiments.learning_rate --config=configs/learning_rate.py --workdir=runs/rates

Is the best rate of LoRA independent of the rank under α/r? How many times is it that of full
fine-tuning? Do curves of different ranks lie on each other at first? Every rate of every rank is
trained with every seed, all in one compiled program; a parabola in the logarithm of the rate
finds the optimum, and a bootstrap over the seeds its interval. What is finished is kept: the same
command goes on from there. Writes config.json, metrics.jsonl, results.json and report.html.

Source: Schulman et al. 2025, "LoRA Without Regret".
"""

from __future__ import annotations

from pathlib import Path

from ml_collections import ConfigDict
from rich.console import Console

from experiments import study, subject
from experiments.joint import FULL, Choice
from experiments.launch import launch
from experiments.learning_rate_report import print_rates, write_report
from experiments.settings import check_ranks
from experiments.study import check, count_trained, describe, run_study
from experiments.subject import load
from lora_jax import training


def defaults() -> ConfigDict:
    """Every setting of the study; a config overrides some of them."""
    config = ConfigDict({"experiment": "learning_rate"})
    config.update(subject.defaults())
    config.update(study.defaults())
    config.search_seeds = len(config.seeds)  # the whole grid
    config.ranks = (2, 8, 32)
    config.targets = ("q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2")
    config.rates.lora = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
    config.rates.full = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
    config.optimizer.schedule = "constant"  # as in the source
    config.resamples = 1000  # of the seeds
    config.lock()
    return config


def main(config: ConfigDict, workdir: Path | None) -> None:
    """Runs the study, or prints its plan if there is no workdir."""
    console = Console(highlight=False, soft_wrap=True)
    check(config)
    if config.search_seeds != len(config.seeds):
        raise ValueError(
            f"search_seeds = {config.search_seeds}: the whole grid is trained, with all "
            f"{len(config.seeds)} seeds"
        )
    check_ranks(config.ranks)
    for kind, rates in config.rates.items():
        if len(rates) < 3:
            raise ValueError(f"rates.{kind} = {list(rates)}: a parabola takes at least 3")

    # ---- The task, the base, the ranks and full fine-tuning
    about = load(config)
    size = (config.alpha, config.batch_size, config.steps)
    adapters = [
        Choice(f"LoRA r={rank}", tuple(config.targets), rank, *size) for rank in config.ranks
    ]
    groups = [adapters, [Choice(FULL, (), 0, *size)]]
    trained = {c.name: count_trained(about, c) for group in groups for c in group}
    if workdir is None:
        console.print(describe(config, about, trained), markup=False)
        return

    # ---- The grid, and the report
    training.open_workdir(workdir, config.to_dict())
    found = run_study(config, about, groups, workdir / "metrics.jsonl", console)
    write_report(workdir, config, about, [*adapters, *groups[1]], found)
    print_rates(console, config, about, [*adapters, *groups[1]], found)


if __name__ == "__main__":
    launch(main)
