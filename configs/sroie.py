"""LoRA on MiniLM and the lines of SROIE's receipts: company, address, date, total, or none?

    export LORA_JAX_DATA=DIR
    python -m experiments.finetune --config=configs/sroie.py --workdir=runs/sroie_lines

DIR holds sroie/ with key/ and box/. Macro F1 on the lines of the receipts that are held out, before
the first step and after the last:

    before   after   steps   processor time
    0.067    0.855   300     213 s
"""

from ml_collections import ConfigDict

from configs import minilm
from experiments.finetune import defaults


def get_config() -> ConfigDict:
    config = defaults()
    config.task.name = "sroie_lines"
    config.task.options = ConfigDict()
    config.model.name = minilm.NAME
    config.model.path = minilm.find()
    config.model.sha256 = minilm.SHA256
    config.length = 32  # a line and the one before it
    config.targets = ("q_proj", "v_proj", "fc1", "fc2")
    config.evaluate_every = 0  # at the start and the end
    return config
