"""Which learning rate, on real weights and real text.

    export LORA_JAX_DATA=DIR
    python -m experiments.learning_rate --config=configs/learning_rate.py:e2e_nlg --workdir=runs/lr

After the colon stands a task of configs/subjects.py: e2e_nlg for stories260K; cola, sst2, rte,
cocohd_relevancy or cocohd_inc_dec for MiniLM. docs/findings.md has what was found.
"""

from ml_collections import ConfigDict

from configs.subjects import TEXTS, set_subject
from experiments.learning_rate import defaults


def get_config(task: str = "e2e_nlg") -> ConfigDict:
    config = defaults()
    set_subject(config, task)
    config.steps = 32
    config.together.update(lora=12, full=4)  # of one seed
    if task in TEXTS:
        config.rates.lora = (1e-3, 3e-3, 1e-2, 3e-2)
        config.rates.full = (3e-4, 1e-3, 3e-3, 1e-2)
    else:
        config.ranks = (2, 16)
        config.targets = ("q_proj", "v_proj")
        config.rates.lora = (3e-4, 1e-3, 3e-3, 1e-2)
        config.rates.full = (3e-5, 1e-4, 3e-4, 1e-3)
    return config
