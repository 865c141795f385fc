"""GPT-3 175B with LoRA, r = 4 on q and v, on 64 or 512 devices: the plan of a step.

    python -m experiments.plan --config=configs/plan_gpt3_175b.py

prints, in 17 s of processor time and 0.7 GB of memory on two busy CPU cores,

    gpt3-175B, lora: 64 x 2,048 tokens a step, on 64 devices (data=1 x fsdp=64 x tensor=1)
    parameters: 18,874,368 trainable (18.9 M), 174,604,259,328 frozen
    checkpoint: 226.5 MB with the optimiser's state; the adapter alone 75.5 MB
    matrix products: 1.270e+17 FLOP a step, 1.984e+15 on each device (100% of which no other device
    does too)
    compiled in 28.7 s

    Memory of each device

     part                         bytes
     ──────────────────────────────────
     frozen weights              5.5 GB
     trained                    38.3 MB
     optimiser                  76.7 MB
     batch                      24.6 kB
     temporaries                29.9 GB
     · gradients                38.3 MB
     · kept by scanned layers    4.9 GB
     peak                       35.5 GB

    Exact: frozen, trained, optimiser, batch. Temporaries are laid out by the compiler for CPU; an
    accelerator keeps bfloat16 narrow and fuses more, so it should need less.

    Collectives of a step

     kind         calls      bytes       sent
     ────────────────────────────────────────
     all-gather   1,734   700.8 GB   689.9 GB
     all-reduce     393    75.5 MB   148.6 MB
     all-to-all       2   100.7 MB    99.1 MB

    Bytes are those of whole arrays; sent is what each device sends if they form a ring. The largest
    all-gather makes bf16[50257, 12288], 1.2 GB, 4 times a step.

    Time of a step

     chip   compute     memory   interconnect   all at once   in turn   bound by   memory used
     ─────────────────────────────────────────────────────────────────────────────────────────
     v5e    10.07 s     2.92 s         3.45 s       10.07 s   16.44 s   compute           222%
     v5p     4.32 s   863.7 ms         1.15 s        4.32 s    6.34 s   compute            37%
     v6e     2.16 s     1.46 s         1.54 s        2.16 s    5.16 s   compute           111%
     A100    6.36 s     1.17 s         3.45 s        6.36 s   10.98 s   compute            44%
     H100    2.01 s   712.9 ms         1.73 s        2.01 s    4.44 s   compute            44%
     H200    2.01 s   497.5 ms         1.73 s        2.01 s    4.23 s   compute            25%

    At published peaks, which no program reaches: a bound from below. What is done at the same time,
    all of it or nothing, decides between the last two times. Devices are joined in the order of the
    mesh.

as printed on 2026-11-26, with JAX 0.10.2. Hu et al., "LoRA: Low-Rank Adaptation of Large Language
Models", arXiv 2106.09685, publish 4.7 M parameters for r = 1 on q and v, and for r = 4 a checkpoint
of 35 MB (section 4.2): that is the adapter alone, in 16 bits. With --config.method.rank=1:

    parameters: 4,718,592 trainable (4.7 M), 174,604,259,328 frozen
    checkpoint: 56.6 MB with the optimiser's state; the adapter alone 18.9 MB

With 512 devices, --config.batch_size=512 --config.mesh.data=8, in 16 s and 0.7 GB:

    gpt3-175B, lora: 512 x 2,048 tokens a step, on 512 devices (data=8 x fsdp=64 x tensor=1)
    matrix products: 1.016e+18 FLOP a step, 1.984e+15 on each device (100% of which no other device
    does too)

     frozen weights              5.5 GB
     trained                    38.3 MB
     temporaries                29.9 GB
     peak                       35.5 GB

     kind         calls      bytes       sent
     all-gather   1,735   701.3 GB   690.3 GB
     all-reduce     585    76.1 MB   150.7 MB
     all-to-all       1    50.3 MB    49.5 MB

     chip   compute     memory   interconnect   all at once   in turn   bound by   memory used
     v5e    10.07 s     2.92 s         3.48 s       10.07 s   16.47 s   compute           222%
     v5p     4.32 s   863.7 ms         1.15 s        4.32 s    6.34 s   compute            37%
     v6e     2.16 s     1.46 s         1.55 s        2.16 s    5.17 s   compute           111%
     A100    6.36 s     1.17 s         3.46 s        6.36 s   11.00 s   compute            44%
     H100    2.01 s   712.9 ms         1.73 s        2.01 s    4.45 s   compute            44%
     H200    2.01 s   497.5 ms         1.73 s        2.01 s    4.24 s   compute            25%
"""

from ml_collections import ConfigDict

from experiments.plan import defaults


def get_config() -> ConfigDict:
    config = defaults()
    config.model.name = "gpt3-175B"
    config.mesh = ConfigDict({"data": 1, "fsdp": 64, "tensor": 1})
    return config
