"""One run of LoRA on MiniLM and the standard library's docstrings.

    python -m experiments.finetune --config=configs/finetune.py --workdir=runs/finetune

Accuracy 0.71 on 480 test docstrings, with Python 3.11, in 76 s of processor time.

Other ways to train the same: --config.train=head, or
--config.train=full --config.optimizer.learning_rate=2e-4.
"""

from ml_collections import ConfigDict

from configs import minilm
from experiments.finetune import defaults


def get_config() -> ConfigDict:
    config = defaults()
    config.model.name = minilm.NAME
    config.model.path = minilm.find()
    config.model.sha256 = minilm.SHA256
    return config
