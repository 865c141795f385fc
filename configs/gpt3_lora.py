"""The LoRA paper's settings of GPT-3 175B, on an open decoder; and the plan of GPT-3 itself.

    export LORA_JAX_DATA=DIR
    python -m experiments.finetune_text --config=configs/gpt3_lora.py:wikisql --workdir=runs/wikisql

on one GPU of 80 GB; on a pod of 16 TPUs, made as scripts/tpu_pod.sh says,

    scripts/tpu_pod.sh keep finetune_text --config=configs/gpt3_lora.py:wikisql \
        --workdir=/mnt/runs/wikisql --config.mesh.data=1 --config.mesh.fsdp=-1

After the colon stands wikisql or samsum. GPT-3's weights are closed; what its own step would take,
with as many rows and tokens,

    python -m experiments.plan --config=configs/plan_gpt3_175b.py --config.batch_size=128 \
        --config.length=2048 --config.method.rank=1

*Published* of GPT-3 itself, in Hu et al. 2021, arXiv 2106.09685, table 4; no score of another model
can be expected to equal them:

    parameters   WikiSQL   SAMSum, ROUGE-1, -2 and -L
    4.7 M        73.4      53.8   29.8   45.9          rank 1 on q and v: 4,718,592 parameters
    37.7 M       74.0      53.4   29.2   45.1

±.5 on WikiSQL, and ±.2, ±.2 and ±.1 on SAMSum. Followed is table 12: AdamW, batch 128, 2 epochs,
warm-up over 250,000 tokens, linear descent, weight decay 0.1, learning rate 2e-4; 384 tokens for
WikiSQL and 2,048 for SAMSum. *Ours*: the model, Qwen3-8B-Base; alpha, which the paper does not
tell, is the rank; adapters of rank 4 on all four weights of the attention, the paper's best on
WikiSQL. MNLI, which the paper has GPT-3 answer in words, is a task of encoders here
(configs/glue_roberta.py). Not run here: neither the weights nor an accelerator were at hand.
"""

from ml_collections import ConfigDict

from experiments.finetune_text import defaults
from lora_jax.data.names import known

# Examples to train on, and tokens of a row.
RUNS = {"wikisql": (56_355, 384), "samsum": (14_732, 2048)}


def get_config(run: str = "wikisql") -> ConfigDict:
    examples, length = RUNS[known(run, RUNS, "run")]
    config = defaults()
    config.task.name = run
    config.model.name = "Qwen3-8B-Base"
    config.model.path = "Qwen/Qwen3-8B-Base"
    config.model.update(dtype="bfloat16", scan=True, remat="full")
    config.encoding.length = length
    config.packing = False
    config.targets = ("q_proj", "k_proj", "v_proj", "o_proj")
    config.method.update(rank=4, alpha=4.0)
    config.batch_size = 128
    config.micro_batches = 8
    config.steps = 2 * -(-examples // 128)
    config.optimizer.update(learning_rate=2e-4, weight_decay=0.1, warmup_tokens=250_000)
    config.evaluation_examples = 1000
    config.evaluation_batch_size = 16
    return config
