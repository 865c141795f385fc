"""LoRA against full fine-tuning, on real weights and real text.

    export LORA_JAX_DATA=DIR
    python -m experiments.lora_vs_full --config=configs/lora_vs_full.py:e2e_nlg --workdir=runs/full

After the colon stands a task of configs/subjects.py: e2e_nlg for stories260K; cola, sst2, rte,
cocohd_relevancy or cocohd_inc_dec for MiniLM, which needs STS-B too. It has not been run to its
end yet.
"""

from ml_collections import ConfigDict

from configs.subjects import TEXTS, set_subject
from experiments.lora_vs_full import defaults


def get_config(task: str = "e2e_nlg") -> ConfigDict:
    config = defaults()
    set_subject(config, task)
    config.steps = 32
    config.together.update(lora=12, full=6)
    if task in TEXTS:
        config.rates.lora = (3e-3, 1e-2, 3e-2)
        config.rates.full = (3e-4, 1e-3, 3e-3)
        config.large_batch = 16
    else:
        config.rates.lora = (1e-3, 3e-3, 1e-2)
        config.rates.full = (3e-5, 1e-4, 3e-4)
        config.examples.own = 96
        config.together.full = 3  # each has an optimiser's state of 180 MiB
        config.large_batch = 0
        config.few_examples = (32,)
    return config
