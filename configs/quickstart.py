"""The main study on real weights and real text, in minutes on two CPU cores.

    scripts/quickstart.sh

or, in an environment that has everything,

    python -m experiments.target_modules --config=configs/quickstart.py --workdir=runs/quickstart

MiniLM (all-MiniLM-L6-v2, 22.7 M parameters) learns to tell which of twelve topics a docstring of
the standard library is about.
"""

from ml_collections import ConfigDict

from configs import minilm
from experiments.target_modules import defaults


def get_config() -> ConfigDict:
    config = defaults()
    config.task.options.test_per_topic = 80
    config.model.name = minilm.NAME
    config.model.path = minilm.find()
    config.model.sha256 = minilm.SHA256
    config.length = 24  # half of the docstrings have no more
    config.target_sets = ("q_proj+v_proj", "o_proj", "o_proj+fc2", "all-linear")
    config.batch_size = 8
    config.steps = 150  # each of the 1,200 examples once
    config.optimizers.head.learning_rate = 2e-2
    config.optimizers.lora.learning_rate = 2e-3
    config.optimizers.lora.groups.head.multiplier = 10.0  # so all heads learn alike
    config.optimizers.full.learning_rate = 2e-4
    config.optimizers.full.groups.head.multiplier = 100.0
    return config
