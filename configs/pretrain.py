"""A base of our own: a decoder of a million parameters, from scratch.

python -m experiments.pretrain --config=configs/pretrain.py --workdir=runs/pretrain
"""

from ml_collections import ConfigDict

from experiments.pretrain import defaults


def get_config() -> ConfigDict:
    return defaults()
