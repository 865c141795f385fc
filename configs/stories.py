"""stories260K and a task of answering texts with texts.

    export LORA_JAX_DATA=DIR
    python -m experiments.finetune_text --config=configs/stories.py:e2e_nlg --workdir=runs/e2e_nlg

After the colon stands e2e_nlg, gsm8k, medmcqa or sroie; DIR holds their folders, and stories260k/
with stories260K.bin and tok512.bin. Scores on the test set (part of it: `evaluation_examples`)
before the first step and after the last, with 95 % intervals of the bootstrap; steps and processor
time:

    e2e_nlg   bleu_lowercase    0.247 [0.138, 0.320]     15.848 [14.352, 17.233]   100   144 s
    e2e_nlg   rouge_l_caption   0.110 [0.101, 0.118]     0.310 [0.295, 0.323]      100   144 s
    e2e_nlg   loss, nats/token  4.646                    1.032                     100   144 s
    medmcqa   choice            0.000 [0.000, 0.000]     0.278 [0.208, 0.354]       40   75 s
    medmcqa   loss, nats/token  14.890                   0.698                      40   75 s
    gsm8k     final_answer      0.000 [0.000, 0.000]     0.024 [0.014, 0.036]      100   259 s
    gsm8k     loss, nats/token  16.089                   0.680                     100   259 s
    sroie     entity_f1         0.000 [0.000, 0.000]     0.000 [0.000, 0.000]       38   146 s
    sroie     anls              0.000 [0.000, 0.000]     0.000 [0.000, 0.000]       38   146 s
    sroie     loss, nats/token  8.823                    1.963                      38   146 s

The model has 260 thousand parameters, a vocabulary of 512 pieces and a context of 512 tokens, and
has read nothing but children's stories. It can learn what an answer looks like, and to copy a
little. It cannot know medicine or do sums: on MedMCQA it learns to say a letter, and to say always
A would be right in a third of the questions; on GSM8K, asked for the number alone, it learns which
numbers are likely: always 5 would be right in 3 % of the problems. Of SROIE only the loss improves:
no field of a receipt is read right. Most receipts are longer than the context, so their prompts
lose the middle; configs/sroie.py reads them line by line.
"""

from ml_collections import ConfigDict

from configs import stories260k
from experiments.finetune_text import defaults
from lora_jax.data.names import known


def get_config(task: str = "e2e_nlg") -> ConfigDict:
    known(task, RUNS, "run")
    config = defaults()
    config.model.name = stories260k.NAME
    config.model.path = stories260k.find()
    config.model.sha256 = stories260k.SHA256
    config.targets = ("q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2")
    config.method.rank = 16
    config.method.alpha = 32.0
    config.optimizer.learning_rate = 5e-3
    config.batch_size = 8
    config.evaluation_examples = 96
    config.evaluation_batch_size = 48
    config.task.name = task
    RUNS[task](config)
    return config


def e2e_nlg(config: ConfigDict) -> None:
    config.encoding.length = 320
    config.max_new_tokens = 144
    config.train_examples = 2000  # of 42,061: more than the steps see
    config.steps = 100


def medmcqa(config: ConfigDict) -> None:
    # The training file is not needed: most of the validation file is trained on, a fifth tested on.
    config.task.options = ConfigDict({"split": "validation"})
    config.encoding.update(length=320, truncate="middle")
    config.train = "full"  # an adapter on frozen embeddings takes longer to say letters
    config.optimizer.learning_rate = 3e-3
    config.evaluation_examples = 144
    config.steps = 40


def gsm8k(config: ConfigDict) -> None:
    # The number alone: it cannot learn to reason, but which numbers are likely.
    config.task.options = ConfigDict({"steps": False})
    config.encoding.update(length=384, truncate="middle")
    config.train = "full"  # the embeddings of "#" and of digits are those of no story
    config.optimizer.learning_rate = 3e-3
    config.max_new_tokens = 12
    config.train_examples = 2000  # of 7,473: more than the steps see
    config.evaluation_examples = 660  # half of them: few are right
    config.evaluation_batch_size = 112  # divides among eight devices
    config.steps = 100


def sroie(config: ConfigDict) -> None:
    config.task.options = ConfigDict({"show": "text"})
    config.encoding.update(length=512, truncate="middle")
    config.packing = False
    config.steps = 38  # four times the 76 receipts
    config.evaluation_batch_size = 24
    config.max_new_tokens = 192


RUNS = {"e2e_nlg": e2e_nlg, "medmcqa": medmcqa, "gsm8k": gsm8k, "sroie": sroie}
