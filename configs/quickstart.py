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
    config.model.path = minilm.find()
    config.model.sha256 = minilm.SHA256
    config.length = 24
    config.target_sets = ("q_proj+v_proj", "o_proj", "fc1+fc2", "o_proj+fc2", "all-linear")
    config.steps = 75
    return config
