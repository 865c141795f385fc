"""Which modules should LoRA adapt? Nine sets of target modules on six tasks.

export LORA_JAX_DATA=DIR
python -m experiments.target_modules --config=configs/target_modules.py:relevancy --workdir=DIR
"""

from ml_collections import ConfigDict

from configs import minilm, stories260k
from experiments.target_modules import defaults
from lora_jax.data.names import known

SETS = (
    *("q_proj+v_proj", "qkv", "o_proj", "fc1", "fc2"),
    *("qkv+o_proj", "o_proj+fc2", "fc1+fc2", "all-linear"),
)
ALL_CONTROLS = ("rank", "parameters", "latency")


# Steps of 8 examples, tokens of an example, and test examples.
ENCODER_TASKS = {
    "cola": (30, 16, 300),
    "sst2": (30, 24, 200),
    "rte": (16, 64, 100),
    "relevancy": (30, 24, 200),
    "inc_dec": (30, 24, 142),
}


def get_config(task: str = "relevancy") -> ConfigDict:
    known(task, (*ENCODER_TASKS, "e2e"), "task")
    config = defaults()
    config.target_sets = SETS
    config.seeds = (0, 1, 2, 3, 4)
    config.batch_size = 8
    if task == "e2e":
        e2e(config)
    else:
        encoder(config, task)
    return config


def encoder(config: ConfigDict, task: str) -> None:
    """MiniLM and labelled texts."""
    is_cocohd = task in ("relevancy", "inc_dec")
    config.task.name = f"cocohd_{task}" if is_cocohd else task
    config.task.options = ConfigDict()
    config.model.name = minilm.NAME
    config.model.path = minilm.find()
    config.model.sha256 = minilm.SHA256
    config.steps, config.length, config.test_examples = ENCODER_TASKS[task]
    for optimizer in (config.optimizers.lora, config.optimizers.full):
        optimizer.groups.head.learning_rate = 2e-2  # all heads learn alike
    config.rates.head = (2e-2,)
    config.rates.lora = (2e-3,)
    config.rates.full = (2e-4,)
    if task == "relevancy":
        config.controls = ALL_CONTROLS
        config.rates.lora = (1e-3, 2e-3, 4e-3)
        config.rates.full = (1e-4, 2e-4, 4e-4)


def e2e(config: ConfigDict) -> None:
    """stories260K and descriptions of restaurants."""
    config.task.name = "e2e_nlg"
    config.task.options = ConfigDict()
    config.model.name = stories260k.NAME
    config.model.path = stories260k.find()
    config.model.sha256 = stories260k.SHA256
    config.model.scan = False
    config.controls = ALL_CONTROLS
    config.length = 224
    config.new_tokens = 104
    config.steps = 60
    config.test_examples = 48
    config.validation_examples = 48
    config.evaluation_batch_size = 48
    for optimizer in (config.optimizers.lora, config.optimizers.full):
        optimizer.groups = ConfigDict()  # there is no head
    config.budgets.parameters = (6_000, 15_000, 30_000)
    config.rates.lora = (5e-3, 1e-2, 2e-2)
    config.rates.full = (1e-3, 3e-3)
