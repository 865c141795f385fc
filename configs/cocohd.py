"""LoRA on MiniLM and the labelled sentences of CoCoHD.

export LORA_JAX_DATA=DIR
python -m experiments.finetune --config=configs/cocohd.py:relevancy --workdir=runs/relevancy
"""

from ml_collections import ConfigDict

from configs import minilm
from experiments.finetune import defaults
from lora_jax.data.names import known

RUNS = ("relevancy", "inc_dec")


def get_config(part: str = "relevancy") -> ConfigDict:
    known(part, RUNS, "run")
    config = defaults()
    config.task.name = f"cocohd_{part}"
    config.task.options = ConfigDict()
    config.model.name = minilm.NAME
    config.model.path = minilm.find()
    config.model.sha256 = minilm.SHA256
    config.length = 48
    config.targets = ("q_proj", "v_proj", "fc1", "fc2")
    config.steps = 80  # twice the sentences to train on, or a little more
    config.evaluate_every = 0  # at the start and the end
    return config
