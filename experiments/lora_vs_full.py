"""LoRA against full fine-tuning: quality, forgetting, batch size, little data, and what each costs.

    python -m experiments.lora_vs_full --config=configs/lora_vs_full.py --workdir=runs/lora_vs_full

Both are trained with several seeds, each at a learning rate chosen for it on a validation part: as
usual, with large batches of as many examples in all, and on few examples. What is forgotten is
measured on the base's own domain: a decoder's loss on texts that the base itself wrote, an
encoder's ranking of STS-B's pairs by its embeddings. Memory, time and size are those of one run.
What is finished is kept: the same command goes on from there. Writes config.json, metrics.jsonl,
results.json and report.html.

Source: Hu et al. 2021, tables 2, 4 and 16; Biderman et al. 2024, "LoRA Learns Less and Forgets
Less"; Schulman et al. 2025, "LoRA Without Regret".
"""

from __future__ import annotations

from pathlib import Path

from ml_collections import ConfigDict
from rich.console import Console

from experiments import study, subject
from experiments.joint import Choice
from experiments.launch import launch
from experiments.lora_vs_full_costs import measure_costs
from experiments.lora_vs_full_report import Setting, print_comparison, write_report
from experiments.study import check, count_trained, describe, run_study
from experiments.subject import load
from lora_jax import training


def defaults() -> ConfigDict:
    """Every setting of the study; a config overrides some of them."""
    config = ConfigDict({"experiment": "lora_vs_full"})
    config.update(subject.defaults())
    config.update(study.defaults())
    config.examples.own = 48  # texts, or pairs, of the base's own domain
    config.rank = 8
    config.targets = ("q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2")
    config.large_batch = 32  # examples of a step; 0 leaves that comparison out
    config.few_examples = (16, 64)  # to train on, over and over
    config.timed_steps = 10
    config.lock()
    return config


def main(config: ConfigDict, workdir: Path | None) -> None:
    """Runs the study, or prints its plan if there is no workdir."""
    console = Console(highlight=False, soft_wrap=True)
    check(config)
    check_settings(config)

    # ---- The task, the base, and both ways to train in every setting
    about = load(config)
    settings = make_settings(config)
    groups = [[setting.lora for setting in settings], [setting.full for setting in settings]]
    trained = {c.name: count_trained(about, c) for group in groups for c in group}
    if workdir is None:
        console.print(describe(config, about, trained), markup=False)
        return

    # ---- Training; then what a run of each takes, alone
    training.open_workdir(workdir, config.to_dict())
    found = run_study(config, about, groups, workdir / "metrics.jsonl", console)
    costs = measure_costs(config, about, settings[0].lora, settings[0].full)
    before = about.own.score_base(about.base) if about.own is not None else {}

    write_report(workdir, config, about, settings, found, costs, before)
    print_comparison(console, config, about, settings, found, costs)


def check_settings(config: ConfigDict) -> None:
    """Refuses batches and examples that do not fit each other."""
    total = config.steps * config.batch_size
    if config.large_batch and (
        config.large_batch <= config.batch_size
        or total % config.large_batch
        or total < 2 * config.large_batch
    ):
        raise ValueError(
            f"large_batch = {config.large_batch}: it is to divide the {total} examples of "
            f"{config.steps} steps of {config.batch_size} into 2 steps or more"
        )
    for count in config.few_examples:
        if not config.batch_size <= count < config.examples.train:
            raise ValueError(
                f"few_examples: {count} is not from batch_size = {config.batch_size} to "
                f"examples.train = {config.examples.train}"
            )


def make_settings(config: ConfigDict) -> list[Setting]:
    """The usual setting, large batches, and few examples."""
    usual = make_setting(config, "usual", config.batch_size, config.steps)
    settings = [usual]
    if config.large_batch:
        steps = config.steps * config.batch_size // config.large_batch
        name = f"batches of {config.large_batch}"
        settings.append(make_setting(config, name, config.large_batch, steps))
    for count in config.few_examples:
        name = f"{count} examples"
        settings.append(make_setting(config, name, config.batch_size, config.steps, count))
    return settings


def make_setting(
    config: ConfigDict, name: str, batch_size: int, steps: int, examples: int = 0
) -> Setting:
    """Both ways to train, with the same batches."""
    size = (config.alpha, batch_size, steps, examples)
    return Setting(
        name,
        Choice(f"LoRA, {name}", tuple(config.targets), config.rank, *size),
        Choice(f"full fine-tuning, {name}", (), 0, *size),
    )


if __name__ == "__main__":
    launch(main)
