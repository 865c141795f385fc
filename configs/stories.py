"""LoRA on stories260K and a task of answering texts with texts.

export LORA_JAX_DATA=DIR
python -m experiments.finetune_text --config=configs/stories.py:e2e_nlg --workdir=runs/e2e_nlg
"""

from ml_collections import ConfigDict

from configs import stories260k
from experiments.finetune_text import defaults
from lora_jax.data.names import known


def get_config(task: str = "e2e_nlg") -> ConfigDict:
    known(task, RUNS, "run")
    config = defaults()
    config.model.name = stories260k.NAME
    config.model.path = stories260k.find()
    config.model.sha256 = stories260k.SHA256
    config.targets = ("q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2")
    config.method.rank = 16
    config.method.alpha = 32.0
    config.optimizer.learning_rate = 5e-3
    config.batch_size = 8
    config.evaluation_examples = 96
    config.evaluation_batch_size = 48
    config.task.name = task
    RUNS[task](config)
    return config


def e2e_nlg(config: ConfigDict) -> None:
    config.encoding.length = 320
    config.max_new_tokens = 144
    config.train_examples = 2000  # of 42,061: more than the steps see
    config.steps = 100


def medmcqa(config: ConfigDict) -> None:
    # The training file is not needed: most of the validation file is trained on, a fifth tested on.
    config.task.options = ConfigDict({"split": "validation"})
    config.encoding.update(length=320, truncate="middle")
    config.evaluation_examples = 240
    config.steps = 50


def gsm8k(config: ConfigDict) -> None:
    config.task.options = ConfigDict({"calculator": False})
    config.encoding.update(length=384, truncate="middle", bad_rows="skip")
    config.max_new_tokens = 160
    config.train_examples = 1000  # of 7,473: more than the steps see
    config.steps = 60


def sroie(config: ConfigDict) -> None:
    config.task.options = ConfigDict({"show": "text"})
    config.encoding.update(length=512, truncate="middle")
    config.packing = False
    config.steps = 38  # four times the 76 receipts
    config.evaluation_batch_size = 24
    config.max_new_tokens = 192


RUNS = {"e2e_nlg": e2e_nlg, "medmcqa": medmcqa, "gsm8k": gsm8k, "sroie": sroie}
