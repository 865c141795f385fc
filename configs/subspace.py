"""What do adapters of rank 8 and of rank 64 have in common? MiniLM on the library's docstrings.

    python -m experiments.subspace --config=configs/subspace.py --workdir=runs/subspace

Adapters that exist, in the files of PEFT's, are compared without training:

    python -m experiments.subspace --config=configs/subspace.py --workdir=runs/theirs \
        --config.model.path=DIR --config.model.sha256= --config.adapters=DIR,DIR
"""

from ml_collections import ConfigDict

from configs import minilm
from experiments.subspace import defaults


def get_config() -> ConfigDict:
    config = defaults()
    config.model.name = minilm.NAME
    config.model.path = minilm.find()
    config.model.sha256 = minilm.SHA256
    config.steps = 96
    return config
