"""What the studies of this folder are about: MiniLM labels texts, stories260K writes them.

The numbers are small, so that every study takes minutes on two CPU cores with five seeds.
"""

from ml_collections import ConfigDict

from configs import minilm, stories260k
from lora_jax.data.names import known

# Tokens of an example: an encoder's longer texts are cut, a decoder's are left out.
LABELS = {"cola": 16, "sst2": 24, "rte": 64, "cocohd_relevancy": 40, "cocohd_inc_dec": 40}
TEXTS = {"e2e_nlg": 120}
TASKS = (*TEXTS, *LABELS)


def set_subject(config: ConfigDict, task: str) -> None:
    """Sets the task, the model, and how much of both is read."""
    known(task, TASKS, "task of a study")
    model = stories260k if task in TEXTS else minilm
    config.task.name = task
    config.model.update(name=model.NAME, path=model.find(), sha256=model.SHA256)
    if task in TEXTS:
        config.length = TEXTS[task]
        config.batch_size = 4
        config.examples.update(train=1200, validation=48, test=96)
    else:
        config.length = LABELS[task]
        config.batch_size = 8
        config.optimizer.groups = ConfigDict({"head": {"learning_rate": 1e-2}})
        config.examples.update(train=2000, validation=128, test=256)
