"""LoRA on MiniLM and STS-B: how alike are two sentences, from 0 to 5?

    export LORA_JAX_DATA=DIR
    python -m experiments.finetune --config=configs/finetune_stsb.py --workdir=runs/stsb

DIR holds glue/STS-B/train.tsv and dev.tsv. Spearman's correlation 0.854 on the dev file, after one
pass over most of the training file, in 260 s of processor time.
"""

from ml_collections import ConfigDict

from configs import minilm
from experiments.finetune import defaults


def get_config() -> ConfigDict:
    config = defaults()
    config.task.name = "stsb"
    config.task.options = ConfigDict()
    config.model.name = minilm.NAME
    config.model.path = minilm.find()
    config.model.sha256 = minilm.SHA256
    config.length = 64  # a pair in one sequence
    config.targets = ("q_proj", "v_proj", "fc1", "fc2")
    config.evaluate_every = 0  # only at the end
    return config
