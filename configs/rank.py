"""How high a rank is needed, on real weights and real text.

    export LORA_JAX_DATA=DIR
    python -m experiments.rank --config=configs/rank.py:e2e_nlg --workdir=runs/rank/e2e_nlg

After the colon stands a task of configs/subjects.py: e2e_nlg for stories260K; cola, sst2, rte,
cocohd_relevancy or cocohd_inc_dec for MiniLM. docs/findings.md has what was found.
"""

from ml_collections import ConfigDict

from configs.subjects import TEXTS, set_subject
from experiments.rank import defaults


def get_config(task: str = "e2e_nlg") -> ConfigDict:
    config = defaults()
    set_subject(config, task)
    config.steps = 32
    if task in TEXTS:
        # Keys and values of stories260K have 32 dimensions: no higher rank.
        config.ranks = (1, 2, 8, 32)
        config.target_sets = ("q_proj", "q_proj+v_proj", "q_proj+k_proj+v_proj+o_proj+fc1+fc2")
        config.rates.lora = (3e-3, 1e-2, 3e-2)
        config.capacity.update(rows=2, steps=150)
        config.together.lora = 12
    else:
        config.ranks = (1, 8, 64)
        config.target_sets = ("q_proj+v_proj",)
        config.rates.lora = (1e-3, 3e-3, 1e-2)
        config.together.lora = 9
    return config
