"""LoRA on MiniLM and a task of GLUE.

export LORA_JAX_DATA=DIR
python -m experiments.finetune --config=configs/glue.py:cola --workdir=runs/cola
"""

from ml_collections import ConfigDict

from configs import minilm
from experiments.finetune import defaults
from lora_jax.data.names import known

# Steps of 16 examples, and tokens of an example, which hold most of them whole.
RUNS = {
    "cola": (150, 24),
    "mrpc": (80, 64),
    "rte": (80, 96),
    "sst2": (100, 36),
    "stsb": (300, 64),
}


def get_config(task: str = "cola") -> ConfigDict:
    known(task, RUNS, "run")
    config = defaults()
    config.task.name = task
    config.task.options = ConfigDict()
    config.model.name = minilm.NAME
    config.model.path = minilm.find()
    config.model.sha256 = minilm.SHA256
    config.steps, config.length = RUNS[task]
    config.targets = ("q_proj", "v_proj", "fc1", "fc2")
    config.evaluate_every = 0  # at the start and the end
    return config
