"""Which modules should LoRA adapt? Nine sets of target modules, several tasks, three controls.

    export LORA_JAX_DATA=DIR
    python -m experiments.target_modules --config=configs/target_modules.py:relevancy --workdir=DIR

After the colon stands a task. DIR holds cocohd/, glue/, e2e_nlg/ and stories260k/.

    relevancy, inc_dec   CoCoHD's sentences, MiniLM. relevancy: equal rank, parameters and latency
    cola, sst2, rte      GLUE, MiniLM, at equal rank
    e2e                  E2E NLG, the decoder stories260K: all three controls, TTFT and TPOT

Five seeds each. All tasks are cut down so that the whole study fits into minutes on two CPU cores:
few steps of few short examples, and part of the test set. CoLA and RTE need far more than that
before MiniLM learns anything of them (configs/glue.py): there the study runs, and can tell nothing.
To spare time, a task may take over the learning rates that another has chosen:
--config.rates_of=runs/relevancy.

Measured so far: weighted F1 of relevancy at equal rank 8, mean and 95 % t-interval of five seeds,
with --config.steps=30 --config.test_examples=200, on 2026-11-26 with JAX 0.10.2 on CPU:

    targets          rank   parameters   rate    weighted F1
    q_proj+v_proj       8       73,728   4e-3    0.786 ± 0.064
    qkv                 8      110,592   2e-3    0.806 ± 0.028
    o_proj              8       36,864   2e-3    0.805 ± 0.029
    fc1                 8       92,160   2e-3    0.801 ± 0.036
    fc2                 8       92,160   2e-3    0.785 ± 0.059
    qkv+o_proj          8      147,456   2e-3    0.801 ± 0.029
    o_proj+fc2          8      129,024   1e-3    0.801 ± 0.037
    fc1+fc2             8      184,320   1e-3    0.799 ± 0.035
    all-linear          8      331,776   1e-3    0.793 ± 0.046

No set can be told from another; docs/findings.md says more.
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
    "relevancy": (24, 24, 192),
    "inc_dec": (24, 24, 142),
    "sst2": (24, 24, 192),
    "cola": (16, 16, 192),
    "rte": (8, 64, 96),
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
    config.rates.lora = (1e-3, 2e-3, 4e-3)
    config.rates.full = (1e-4, 3e-4)
    config.validation_examples = 96
    config.latency.rounds = 40
    if task == "relevancy":
        config.controls = ALL_CONTROLS
        config.equal_latency.ranks = (2, 32)  # and 8, and that of equal parameters


def e2e(config: ConfigDict) -> None:
    """stories260K and descriptions of restaurants."""
    config.task.name = "e2e_nlg"
    config.task.options = ConfigDict()
    config.model.name = stories260k.NAME
    config.model.path = stories260k.find()
    config.model.sha256 = stories260k.SHA256
    config.controls = ALL_CONTROLS
    # Small products next to small products: one more set of them costs tens of percent.
    config.equal_latency.update(over_base=0.25, ranks=(2, 32))
    config.budgets.parameters = (6_000, 15_000, 30_000)
    config.budgets.over_base = (0.25, 0.5, 1.0)
    config.latency.update(rounds=30, new_tokens=24)
    # The texts of the other studies of this base: those of at most 120 tokens.
    config.metric = "token_accuracy"
    config.length = 120
    config.batch_size = 4
    config.steps = 32
    config.train_examples = 9600  # of which those count that are short enough
    config.validation_examples = 0  # all
    config.evaluation_batch_size = 27
    for optimizer in (config.optimizers.lora, config.optimizers.full):
        optimizer.groups = ConfigDict()  # there is no head
    config.rates.lora = (3e-3, 1e-2, 3e-2)
    config.rates.full = (1e-3, 3e-3)
