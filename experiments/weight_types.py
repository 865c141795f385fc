"""Which weights should share a fixed number of parameters? Table 5 of the LoRA paper, and the MLP.

    python -m experiments.weight_types --config=configs/weight_types.py:sst2 --workdir=runs/types

Each set of weights has the rank that comes nearest to the budget; its learning rate is chosen on a
validation part; several seeds. Adapters train together in one compiled program. What is finished
is kept: the same command goes on from there. Writes config.json, metrics.jsonl, results.json and
report.html.

Source: Hu et al. 2021, section 7.1, which leaves out the MLP; Schulman et al. 2025 put it first.
"""

from __future__ import annotations

from pathlib import Path

from ml_collections import ConfigDict
from rich.console import Console

from experiments import study, subject
from experiments.joint import Choice
from experiments.launch import launch
from experiments.study import check, count_trained, describe, names_of, run_study
from experiments.subject import Subject, load
from experiments.weight_types_report import print_types, write_report
from lora_jax import training


def defaults() -> ConfigDict:
    """Every setting of the study; a config overrides some of them."""
    config = ConfigDict({"experiment": "weight_types"})
    config.update(subject.defaults())
    config.update(study.defaults())
    config.target_sets = (
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "q_proj+k_proj",
        "q_proj+v_proj",
        "q_proj+k_proj+v_proj+o_proj",
        "fc1+fc2",
        "q_proj+k_proj+v_proj+o_proj+fc1+fc2",
    )
    # As many parameters as these targets have at this rank.
    config.budget = ConfigDict({"targets": "q_proj", "rank": 16})
    config.lock()
    return config


def main(config: ConfigDict, workdir: Path | None) -> None:
    """Runs the study, or prints its plan if there is no workdir."""
    console = Console(highlight=False, soft_wrap=True)
    check(config)

    # ---- The task, the base, and the rank of each set of weights
    about = load(config)
    budget = count_trained(about, make_choice(config, config.budget.targets, config.budget.rank))
    group = [fit(config, about, targets, budget) for targets in names_of(config)]
    trained = {choice.name: count_trained(about, choice) for choice in group}
    if workdir is None:
        console.print(f"a budget of {budget:,} parameters")
        console.print(describe(config, about, trained), markup=False)
        return

    # ---- Training, and the report
    training.open_workdir(workdir, config.to_dict())
    found = run_study(config, about, [group], workdir / "metrics.jsonl", console)
    write_report(workdir, config, about, budget, group, trained, found)
    print_types(console, config, about, group, trained, found)


def make_choice(config: ConfigDict, targets: str, rank: int) -> Choice:
    """One rank for all of some targets."""
    size = (config.alpha, config.batch_size, config.steps)
    return Choice(targets, tuple(targets.split("+")), rank, *size)


def fit(config: ConfigDict, about: Subject, targets: str, budget: int) -> Choice:
    """The choice whose rank comes nearest to a budget of parameters."""
    of_one = count_trained(about, make_choice(config, targets, 1))
    if budget < of_one / 2:
        raise ValueError(
            f"{targets} has {of_one:,} parameters at rank 1, and the budget is {budget:,}: raise "
            "budget.rank"
        )
    return make_choice(config, targets, max(1, round(budget / of_one)))


if __name__ == "__main__":
    launch(main)
