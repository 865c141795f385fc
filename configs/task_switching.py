"""Adapters for three tasks over one MiniLM: switching, mixed batches, and mixtures.

    export LORA_JAX_DATA=DIR
    python -m experiments.task_switching --config=configs/task_switching.py --workdir=runs/switching

DIR holds glue/SST-2 and cocohd/ with their published files; the third task, docstrings, is read
from the running Python. Adapters that exist, in PEFT's files, are switched without training:

    python -m experiments.task_switching --config=configs/task_switching.py --workdir=runs/theirs \
        --config.model.path=DIR --config.model.sha256= --config.adapters=DIR,DIR
"""

from ml_collections import ConfigDict

from configs import minilm
from experiments.task_switching import defaults


def get_config() -> ConfigDict:
    config = defaults()
    config.model.name = minilm.NAME
    config.model.path = minilm.find()
    config.model.sha256 = minilm.SHA256
    config.seeds = (0, 1, 2, 3, 4)
    config.steps = 48
    config.evaluation_examples = 96
    with config.unlocked():
        config.tasks.docstrings = ConfigDict({"train_per_topic": 120, "test_per_topic": 40})
        config.tasks.sst2 = ConfigDict()
        config.tasks.cocohd_relevancy = ConfigDict({"seed": 5768})  # of the split
    return config
