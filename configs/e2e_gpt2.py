"""The LoRA paper's runs of GPT-2 on E2E NLG, WebNLG and DART, at full size.

    export LORA_JAX_DATA=DIR
    python -m experiments.finetune_text --config=configs/e2e_gpt2.py:medium-e2e_nlg \
        --workdir=runs/medium-e2e

on one GPU; on a pod of 8 TPUs, made as scripts/tpu_pod.sh says,

    scripts/tpu_pod.sh keep finetune_text --config=configs/e2e_gpt2.py:medium-e2e_nlg \
        --workdir=/mnt/runs/medium-e2e

After the colon stands medium or large, a hyphen, and e2e_nlg, web_nlg or dart. Rank 4 on q and v:
393,216 parameters in medium (the paper prints 0.35M; its released file holds 393,216) and 737,280
in large (printed: 0.77M). *Published* in Hu et al. 2021, arXiv 2106.09685, tables 3, 13 and 14, the
mean of three seeds:

    E2E       BLEU       NIST        METEOR     ROUGE-L    CIDEr
    medium    70.4±.1    8.85±.02    46.8±.2    71.8±.1    2.53±.02
    large     70.4±.1    8.89±.02    46.8±.2    72.0±.2    2.47±.02

              DART: BLEU   METEOR   TER      WebNLG: BLEU on unseen, seen and all categories
    medium    47.1         .39      .46      46.7   62.1   55.3
    large     47.5         .39      .45      48.4   64.0   57.0

Not run here: neither the weights nor an accelerator were at hand. One seed is one run:
--config.seed=0, 1 and 2; of WebNLG --config.task.options.test=unseen or seen.

The settings are those of table 11. Where paper and released code differ, this follows the paper:
the length penalty of E2E is 0.9 (the code's README: 0.8). The paper says that A starts from a
Gaussian; its code has Kaiming-uniform, and so has this. What is ours: a line break stands between
prompt and answer, where the code has an end-of-text token; nothing but the adapter's input is
dropped out; METEOR matches words and stems only, of which docs/metrics.md tells.
"""

from ml_collections import ConfigDict

from experiments.finetune_text import defaults
from lora_jax.data.names import known

# Examples to train on, of which --dry_run says whether the files at hand have as many: those of
# WebNLG and DART are as their descriptions have them. Then weight decay, dropout, label smoothing
# and length penalty (table 11).
TASKS = {
    "e2e_nlg": (42_061, 0.01, 0.1, 0.1, 0.9),
    "web_nlg": (18_025, 0.01, 0.1, 0.1, 0.8),
    "dart": (62_659, 0.0, 0.0, 0.0, 0.8),
}
RUNS = [f"{size}-{task}" for size in ("medium", "large") for task in TASKS]


def get_config(run: str = "medium-e2e_nlg") -> ConfigDict:
    size, task = known(run, RUNS, "run").split("-")
    examples, decay, dropout, smoothing, penalty = TASKS[task]
    config = defaults()
    config.task.name = task
    if task == "web_nlg":
        config.task.options = ConfigDict({"test": "all"})
    config.model.name = f"GPT-2 {size}"
    config.model.path = f"openai-community/gpt2-{size}"
    config.encoding.length = 512
    config.packing = False
    config.targets = ("q_proj", "v_proj")
    config.method.update(rank=4, alpha=32.0, dropout=dropout)
    config.batch_size = 8
    epoch = -(-examples // 8)
    config.steps = 5 * epoch
    config.optimizer.update(learning_rate=2e-4, weight_decay=decay)
    config.optimizer.warmup = 500
    config.label_smoothing = smoothing
    config.decoding.update(beams=10, length_penalty=penalty, no_repeat_ngram=4)
    config.evaluation_batch_size = 8
    config.evaluate_every = epoch
    config.checkpoint_every = epoch
    return config
