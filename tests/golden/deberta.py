"""DeBERTa v2 and v3: kinds of relative positions, the convolution, and every head."""

import functools
from typing import Any

from golden.case import Case
from golden.encoders import BARE, EPS, batch, head_case, make

# As version 3 has them, with so few buckets that the farther distances share one.
V3: dict[str, Any] = {
    "relative_attention": True,
    "position_buckets": 4,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": "p2c|c2p",
    "position_biased_input": False,
}


def deberta(kind: str, **fields: Any) -> Any:
    return make(f"DebertaV2{kind}", "deberta-v2", **fields)


def bare(**fields: Any) -> Case:
    return Case(make=lambda: deberta("Model", **fields), inputs=batch(), **BARE)


_V3 = functools.partial(deberta, **V3)

CASES = {
    "deberta": bare(**V3),
    "deberta_conv": bare(**V3, **EPS, conv_kernel_size=3, conv_groups=2, conv_act="gelu"),
    # Distances from 3 on are one.
    "deberta_c2p": bare(
        relative_attention=True,
        max_relative_positions=3,
        pos_att_type=["c2p"],
        embedding_size=12,
        type_vocab_size=2,
    ),
    "deberta_p2c": bare(relative_attention=True, position_buckets=6, pos_att_type=["p2c"]),
    "deberta_absolute": bare(type_vocab_size=2, hidden_act="relu"),
    "deberta_classification": head_case(_V3, "classification", batch()),
    "deberta_regression": head_case(
        _V3, "regression", batch(), pooler_hidden_act="tanh", conv_kernel_size=3
    ),
    "deberta_token_classification": head_case(_V3, "token_classification", batch()),
    "deberta_multiple_choice": head_case(_V3, "multiple_choice", batch()),
    "deberta_masked_lm": head_case(_V3, "masked_lm", batch(), legacy=False, **EPS),
    "deberta_masked_lm_legacy": head_case(_V3, "masked_lm", batch(), embedding_size=12),
}
