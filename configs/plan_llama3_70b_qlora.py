"""Llama 3 70B in NF4 with LoRA, r = 64 on every linear weight (QLoRA): the plan of a step.

    python -m experiments.plan --config=configs/plan_llama3_70b_qlora.py

Dettmers et al., "QLoRA: Efficient Finetuning of Quantized LLMs", arXiv 2305.14314, adapt every
linear weight with r = 64. On eight devices, as printed on 2026-11-26 with JAX 0.10.2:

    Llama 3 70B, lora: 8 x 2,048 tokens a step, on 8 devices (data=1 x fsdp=8 x tensor=1)
    parameters: 828,375,040 trainable (828.4 M), 70,553,706,496 frozen
    checkpoint: 9.9 GB with the optimiser's state; the adapter alone 3.3 GB
    matrix products: 6.641e+15 FLOP a step, 8.301e+14 on each device (100% of which no other device
    does too)
    compiled in 30.1 s

    Memory of each device

     part                         bytes
     ──────────────────────────────────
     frozen weights              5.0 GB
     trained                     2.3 GB
     optimiser                   4.6 GB
     batch                      24.6 kB
     temporaries                17.2 GB
     · gradients                 2.3 GB
     · kept by scanned layers    2.7 GB
     peak                       29.0 GB

    Exact: frozen, trained, optimiser, batch. Temporaries are laid out by the compiler for CPU; an
    accelerator keeps bfloat16 narrow and fuses more, so it should need less.

    Collectives of a step

     kind         calls      bytes       sent
     ────────────────────────────────────────
     all-gather   3,205   383.8 GB   335.8 GB
     all-reduce   1,144     3.3 GB     5.8 GB
     all-to-all       1    33.6 MB    29.4 MB

    Bytes are those of whole arrays; sent is what each device sends if they form a ring. The largest
    all-gather makes bf16[8192, 128256], 2.1 GB, 4 times a step.

    Time of a step

     chip    compute     memory   interconnect   all at once   in turn   bound by   memory used
     ──────────────────────────────────────────────────────────────────────────────────────────
     v5e      4.21 s     1.83 s         1.71 s        4.21 s    7.76 s   compute           181%
     v5p      1.81 s   543.0 ms       569.4 ms        1.81 s    2.92 s   compute            31%
     v6e    904.3 ms   915.5 ms       762.6 ms      915.5 ms    2.58 s   memory             91%
     A100     2.66 s   736.3 ms         1.14 s        2.66 s    4.54 s   compute            36%
     H100   839.0 ms   448.2 ms       759.2 ms      839.0 ms    2.05 s   compute            36%
     H200   839.0 ms   312.8 ms       759.2 ms      839.0 ms    1.91 s   compute            21%

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
