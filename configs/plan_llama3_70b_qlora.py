"""Llama 3 70B in NF4 with LoRA, r = 64 on every linear weight (QLoRA): the plan of a step.

    python -m experiments.plan --config=configs/plan_llama3_70b_qlora.py

Dettmers et al., "QLoRA: Efficient Finetuning of Quantized LLMs", arXiv 2305.14314, adapt every
linear weight with r = 64. On eight devices, as printed on 2026-11-26 with JAX 0.10.2:

    Llama 3 70B, lora: 8 x 2,048 tokens a step, on 8 devices (data=1 x fsdp=8 x tensor=1)
    parameters: 828,375,040 trainable (828.4 M), 70,553,706,496 frozen
    checkpoint: 9.9 GB with the optimiser's state; the adapter alone 3.3 GB
    matrix products: 6.676e+15 FLOP a step, 8.345e+14 on each device (100% of which no other device
    does too)
    compiled in 7.7 s

    Memory of each device

     part                         bytes
     ──────────────────────────────────
     frozen weights              5.0 GB
     trained                     2.3 GB
     optimiser                   4.6 GB
     batch                      24.6 kB
     temporaries                18.7 GB
     · gradients                 2.3 GB
     · kept by scanned layers    2.7 GB
     peak                       30.6 GB

    Exact: frozen, trained, optimiser, batch. Temporaries are laid out by the compiler for CPU; an
    accelerator keeps bfloat16 narrow and fuses more, so it should need less.

    Collectives of a step

     kind         calls      bytes       sent
     ────────────────────────────────────────
     all-gather   3,209   392.2 GB   343.2 GB
     all-reduce   1,144     3.3 GB     5.8 GB
     all-to-all       1    33.6 MB    29.4 MB

    Bytes are those of whole arrays; sent is what each device sends if they form a ring. The largest
    all-gather makes bf16[8192, 128256], 2.1 GB, 4 times a step.

    Time of a step

     chip    compute     memory   interconnect   all at once   in turn   bound by   memory used
     ──────────────────────────────────────────────────────────────────────────────────────────
     v5e      4.24 s     1.84 s         1.75 s        4.24 s    7.83 s   compute           191%
     v5p      1.82 s   546.4 ms       581.7 ms        1.82 s    2.95 s   compute            32%
     v6e    909.0 ms   921.3 ms       779.0 ms      921.3 ms    2.61 s   memory             95%
     A100     2.67 s   741.0 ms         1.16 s        2.67 s    4.58 s   compute            38%
     H100   843.3 ms   451.0 ms       775.6 ms      843.3 ms    2.07 s   compute            38%
     H200   843.3 ms   314.8 ms       775.6 ms      843.3 ms    1.93 s   compute            22%

    At published peaks, which no program reaches: a bound from below. What is done at the same time,
    all of it or nothing, decides between the last two times. Devices are joined in the order of the
    mesh.
"""

from ml_collections import ConfigDict

import lora_jax as lora
from experiments.plan import defaults

# config.json of meta-llama/Meta-Llama-3-70B, what shapes depend on.
FIELDS = {
    "model_type": "llama",
    "bos_token_id": 128000,
    "eos_token_id": 128001,
    "hidden_act": "silu",
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "max_position_embeddings": 8192,
    "num_attention_heads": 64,
    "num_hidden_layers": 80,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "rope_theta": 500000.0,
    "tie_word_embeddings": False,
    "vocab_size": 128256,
}


def get_config() -> ConfigDict:
    config = defaults()
    config.model.name = "Llama 3 70B"
    config.model.fields = ConfigDict(FIELDS)
    config.model.quantize = "nf4"
    config.method.rank = 64
    config.method.alpha = 16.0
    config.targets = (lora.ALL_LINEAR,)
    config.batch_size = 8
    config.mesh = ConfigDict({"data": 1, "fsdp": 8, "tensor": 1})
    return config
