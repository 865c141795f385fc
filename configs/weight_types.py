"""Which weights should share a fixed number of parameters, on real weights and real text.

    export LORA_JAX_DATA=DIR
    python -m experiments.weight_types --config=configs/weight_types.py:e2e_nlg --workdir=runs/types

After the colon stands a task of configs/subjects.py: e2e_nlg for stories260K; cola, sst2, rte,
cocohd_relevancy or cocohd_inc_dec for MiniLM. docs/findings.md has what was found.
"""

from ml_collections import ConfigDict

from configs.subjects import TEXTS, set_subject
from experiments.weight_types import defaults


def get_config(task: str = "e2e_nlg") -> ConfigDict:
    config = defaults()
    set_subject(config, task)
    config.steps = 32
    config.together.lora = 27  # of the 54 runs that choose rates, and then of the other 27
    config.rates.lora = (3e-3, 1e-2, 3e-2) if task in TEXTS else (1e-3, 3e-3, 1e-2)
    return config
