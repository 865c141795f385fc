"""Latency of a pass of GPT-2 small: merged LoRA is the base, bottleneck adapters are not.

    python -m experiments.latency --config=configs/latency.py --workdir=runs/latency

Sizes of the LoRA paper's table 1, for an accelerator:

    --config=configs/latency.py:medium

Merged LoRA beside the base and the base again, in so many short passes that a difference of 3 % in
either direction would be seen (some minutes on two cores of a CPU):

    --config=configs/latency.py:merged
"""

from ml_collections import ConfigDict

from experiments.latency import defaults
from experiments.latency_report import AGAIN, BASE, MERGED


def get_config(size: str = "small") -> ConfigDict:
    config = defaults()
    if size == "medium":
        config.model.update(dim=1024, layers=24, heads=16, scan=True)
        config.adapter_parameters = 11_000_000
        config.grid = ((32, 512), (16, 256), (1, 128))
        config.rounds = 100
    elif size == "merged":
        config.contenders = (BASE, AGAIN, MERGED)
        config.grid = ((1, 16), (1, 64))
        config.rounds = 400
    elif size != "small":
        raise ValueError(f"unknown size {size!r}; known: small, medium, merged")
    return config
