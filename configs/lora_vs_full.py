"""LoRA against full fine-tuning, on real weights and real text.

    export LORA_JAX_DATA=DIR
    python -m experiments.lora_vs_full --config=configs/lora_vs_full.py:e2e_nlg --workdir=runs/full

After the colon stands a task of configs/subjects.py: e2e_nlg for stories260K; cola, sst2, rte,
cocohd_relevancy or cocohd_inc_dec for MiniLM, which needs STS-B too. Or `own`: E2E NLG on the base
of configs/pretrain.py, in runs/pretrain/model, and with --config.model.fresh=True on weights drawn
anew in its place. What of the comparison is due to a base that is pretrained?

    python -m experiments.lora_vs_full --config=configs/lora_vs_full.py:own --workdir=runs/own
    python -m experiments.lora_vs_full --config=configs/lora_vs_full.py:own --workdir=runs/fresh \
        --config.model.fresh=True
    python -m experiments.compare runs/own runs/fresh --workdir=runs/bases

docs/findings.md has what was found.
"""

from ml_collections import ConfigDict

from configs.subjects import TEXTS, set_subject
from experiments.lora_vs_full import defaults


def get_config(task: str = "e2e_nlg") -> ConfigDict:
    config = defaults()
    if task == "own":
        own(config)
        return config
    set_subject(config, task)
    if task in TEXTS:
        config.steps = 32
        config.search_seeds = 5  # all of the runs: one program of each kind, compiled once
        config.together.update(lora=30, full=30)
        config.rates.lora = (3e-3, 1e-2, 3e-2)
        config.rates.full = (3e-4, 1e-3, 3e-3)
        config.large_batch = 16
        config.few_examples = (16,)
    else:
        config.steps = 24
        config.search_seeds = 1
        config.rates.lora = (1e-3, 3e-3, 1e-2)
        config.rates.full = (3e-5, 1e-4, 3e-4)
        config.examples.update(validation=96, test=192, own=64)
        config.together.update(lora=8, full=4)  # full: an optimiser's state of 180 MiB for each
        config.large_batch = 0
        config.few_examples = (32,)
    return config


def own(config: ConfigDict) -> None:
    """E2E NLG on a base that has learnt the source of programs."""
    set_subject(config, "e2e_nlg")
    config.model.update(name="own", path="runs/pretrain/model", sha256="")
    config.length = 160  # English takes more of a vocabulary that was learnt from programs
    config.examples.own = 24
    config.steps = 40
    config.search_seeds = 1
    config.together.update(lora=7, full=7)
    config.rates.lora = (3e-3, 1e-2, 3e-2)
    config.rates.full = (1e-3, 3e-3, 1e-2)
    config.large_batch = 0
    config.few_examples = ()
