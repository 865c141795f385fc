"""LoRA on MiniLM and a task of GLUE.

    export LORA_JAX_DATA=DIR
    python -m experiments.finetune --config=configs/glue.py:sst2 --workdir=runs/sst2

After the colon stands cola, mrpc, rte, sst2 or stsb; DIR holds glue/CoLA, glue/MRPC and so on, each
with train.tsv and dev.tsv. The metric on the dev file, before the first step and after the last:

    run     metric      before   after   steps   processor time
    sst2    accuracy    0.545    0.815   100     115 s
    stsb    spearman    0.032    0.854   300     –
    cola    matthews   -0.043    0.278   1070    607 s
    mrpc    f1          0.641    0.858   460     842 s
    rte     accuracy    0.491    0.578   620     –

cola takes its whole run: after 150 steps the model still calls every sentence acceptable, and
Matthews' correlation is 0. Always yes has an F1 of 0.812 on mrpc, and is right in 53 % of rte.
"""

from ml_collections import ConfigDict

from configs import minilm
from experiments.finetune import defaults
from lora_jax.data.names import known

# Steps of 16 examples, and tokens of an example, which hold most of them whole.
RUNS = {
    "cola": (1070, 24),
    "mrpc": (460, 80),
    "rte": (620, 128),
    "sst2": (100, 36),
    "stsb": (300, 64),
}


def get_config(task: str = "cola") -> ConfigDict:
    known(task, RUNS, "run")
    config = defaults()
    config.task.name = task
    config.task.options = ConfigDict()
    config.model.name = minilm.NAME
    config.model.path = minilm.find()
    config.model.sha256 = minilm.SHA256
    config.steps, config.length = RUNS[task]
    config.targets = ("q_proj", "v_proj", "fc1", "fc2")
    config.evaluate_every = 0  # at the start and the end
    return config
