"""How high a rank is needed? The score, the loss and the capacity of LoRA at several ranks.

    python -m experiments.rank --config=configs/rank.py:sst2 --workdir=runs/rank/sst2

Every rank is trained on several sets of target modules with several seeds; the learning rate of
each is chosen on a validation part. A decoder is also made to learn random tokens by heart: how
many bits does an adapter hold? Adapters train together, in one compiled program a set. What is
finished is kept: the same command goes on from there. Writes config.json, metrics.jsonl,
capacity.jsonl, results.json and report.html.

Source: Hu et al. 2021, tables 6 and 18; Schulman et al. 2025, "LoRA Without Regret", on capacity.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict
from rich.console import Console

from experiments import study, subject
from experiments.joint import Choice
from experiments.launch import launch
from experiments.rank_report import Stored, print_ranks, write_report
from experiments.settings import check_ranks
from experiments.study import check, count_trained, describe, names_of, run_study
from experiments.subject import Subject, load
from lora_jax import training
from lora_jax.evaluation import mean_interval


def defaults() -> ConfigDict:
    """Every setting of the study; a config overrides some of them."""
    config = ConfigDict({"experiment": "rank"})
    config.update(subject.defaults())
    config.update(study.defaults())
    config.ranks = (1, 2, 4, 8, 64)
    config.target_sets = ("q_proj", "q_proj+v_proj", "q_proj+k_proj+v_proj+o_proj")
    # Random tokens to learn by heart, all of them in each step; no rows, no such part.
    config.capacity = ConfigDict(
        {"rows": 0, "length": 64, "steps": 300, "targets": "q_proj+v_proj"}
    )
    config.capacity.rates = (1e-2, 3e-2)
    config.lock()
    return config


def main(config: ConfigDict, workdir: Path | None) -> None:
    """Runs the study, or prints its plan if there is no workdir."""
    console = Console(highlight=False, soft_wrap=True)
    check(config)
    check_ranks(config.ranks)

    # ---- The task, the base, and every rank on every set of targets
    about = load(config)
    if config.capacity.rows and not about.lower_is_better:
        raise ValueError(
            f"capacity.rows = {config.capacity.rows}: {about.name} labels texts, and only a model "
            "that writes them can learn some by heart"
        )
    groups = [
        [make_choice(config, targets, rank) for rank in config.ranks]
        for targets in names_of(config)
    ]
    trained = {c.name: count_trained(about, c) for group in groups for c in group}
    if workdir is None:
        console.print(describe(config, about, trained), markup=False)
        return

    # ---- Training, and how much can be learnt by heart
    training.open_workdir(workdir, config.to_dict())
    found = run_study(config, about, groups, workdir / "metrics.jsonl", console)
    stored = fill(config, about, workdir / "capacity.jsonl", console)

    write_report(workdir, config, about, trained, found, stored)
    print_ranks(console, config, about, trained, found)


def make_choice(config: ConfigDict, targets: str, rank: int) -> Choice:
    """A rank on a set of targets, named so that the report can find it."""
    name = f"{targets} r={rank}"
    size = (config.alpha, config.batch_size, config.steps)
    return Choice(name, tuple(targets.split("+")), rank, *size)


def fill(config: ConfigDict, about: Subject, log: Path, console: Console) -> list[Stored]:
    """Lets adapters learn random tokens by heart, and counts the bits that they hold.

    A token drawn from a vocabulary of V takes log2 V bits to say; to a model whose loss on it is L
    nats it takes L / ln 2. The difference, over all tokens, is what the adapter knows of them.
    """
    settings = config.capacity
    if not settings.rows:
        return []
    vocabulary = about.base.config.vocab_size
    ids = np.random.default_rng(0).integers(3, vocabulary, (settings.rows, settings.length))
    ones = np.ones_like(ids, np.int32)
    rows = {"ids": ids.astype(np.int32), "trained": ones, "segments": ones}
    random = about._replace(train=rows, validation=rows, test=rows, own=None)
    choices = [
        make_choice(config, settings.targets, rank)._replace(
            batch_size=settings.rows, steps=settings.steps
        )
        for rank in config.ranks
    ]
    own = config.copy_and_resolve_references()  # the study's own rates stay as they are
    own.rates.lora = settings.rates
    found = run_study(own, random, [choices], log, console)
    tokens = settings.rows * (settings.length - 1)
    most = tokens * math.log2(vocabulary - 3)
    stored = []
    for choice in choices:
        bits = [most - tokens * loss / math.log(2) for loss in found.scores[choice.name]]
        count = count_trained(random, choice)
        stored.append(Stored(choice.rank, count, mean_interval(bits), most, bits))
    return stored


if __name__ == "__main__":
    launch(main)
