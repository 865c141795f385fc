"""Sweeps: each member's curve is that of its own run, in one program over one base."""

import jax
import numpy as np
import pytest

import lora_jax as lora
from tests.training import sweeping
from tests.training.sweeping import member

STEPS = 100

MIXED = [
    member("q of rank 2"),
    member("all of rank 4", ("q_proj", "o_proj", "fc1", "fc2"), method=lora.LoRA(4, 16), seed=1),
    member("rs, faster", ("fc2",), method=lora.LoRA(3, 8, rs=True), learning_rate=5e-3),
    member("head alone", (), seed=2, groups={"head": {"multiplier": 3.0}}),
    member("two classes", ("o_proj",), "shapes", weight_decay=0.1, seed=3),
    member("dropout", method=lora.LoRA(2, 8, dropout=0.3), seed=4),
    member("LoRA-FA", ("q_proj", "fc1"), method=lora.LoRAFA(2, 8), weight_decay=0.05),
    member("LoRA+", ("fc1",), method=lora.LoRA(1, 2), lora_plus=4.0),
    member("PiSSA", ("o_proj",), method=lora.PiSSA(2, 2), seed=5),
    member("ranks by layer", {"q_proj": lora.LoRA(ranks=(1, 0, 3), alpha=6)}, seed=6),
]


@pytest.fixture(scope="module")
def together():
    return sweeping.train_together(MIXED, STEPS)


@pytest.mark.parametrize("one", MIXED, ids=lambda one: one.name)
def test_a_member_is_its_solo_run(together, one):
    rows, variables = sweeping.train_alone(one, STEPS)
    run = together.runs[one.name]
    for name in ("loss", "grad_norm", "lr", "accuracy"):
        ours, alone = ([row[name] for row in found] for found in (run.rows, rows))
        np.testing.assert_allclose(ours, alone, rtol=1e-5, atol=1e-9, err_msg=name)
    near = lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)
    jax.tree.map(near, run.variables, variables)
