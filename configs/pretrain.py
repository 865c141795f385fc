"""A base of our own: a decoder of a million parameters, from scratch.

    python -m experiments.pretrain --config=configs/pretrain.py --workdir=runs/pretrain

Llama's shapes, 984,192 parameters, with 1,024 tokens learnt from the source of the standard
library, which it then models: 600 steps of 2,048 tokens, a third of one pass. On files held out,
of which 512 rows (65,536 tokens) are looked at, in nats a token:

    every token equally likely     6.931
    frequencies of tokens alone    5.944    on all rows of these files
    this model                     3.545    2.03 bits a character, 26.8 % of the tokens right
                                   3.549    in another run, on one core instead of two

Measured on 2026-11-26 on two busy cores of an Intel Xeon with AMX, with Python 3.11.7 and JAX
0.10.2: 315 s of processor time. The sha256 of

    the texts        b9a54961bd3b9f611f1cd1e437b9394d93e6e35da4eba653c4aa3b327dd226e0
    tokenizer.json   008faefac0214d5f5f7f5439ff340ce72b2fdf1c254e88904940a423d091c8a9
    the params       aa2e653fdd556e47aed2bcecee0859cbdd0757313d5f68ed90a27e6adc4c7484

The texts are those of the running Python: another version has others, and so another tokenizer,
another model and another loss. Of the same texts the first two hashes are the same on any machine;
the params also depend on how the processor and the version of JAX round, which 600 steps magnify.
"""

from ml_collections import ConfigDict

from experiments.pretrain import defaults


def get_config() -> ConfigDict:
    return defaults()
