"""An adapter and its head come back from their files as they were written."""

from pathlib import Path

import jax
import numpy as np

import lora_jax as lora
from lora_jax import training
from lora_jax.training.classifier import init_variables

BERT = Path(__file__).parent.parent / "fixtures" / "bert"


def test_an_adapter_and_its_head_survive_a_round_trip_and_are_none_before(tmp_path):
    base = lora.hub.load_model(BERT)
    ids = jax.ShapeDtypeStruct((2, 4), "int32")
    lifted = lora.lift(
        base.apply, base.params, ids, ids, ids, targets=("q_proj",), method=lora.LoRA(2)
    )
    variables = init_variables(base, lifted, 3, jax.random.key(0))
    variables["adapter"] = jax.tree.map(lambda x: x + 0.1, variables["adapter"])
    folder = tmp_path / "adapters" / "one"
    shapes = jax.eval_shape(lambda: variables["head"])
    assert training.read_adapter(folder, base, lifted, shapes) is None
    training.save_adapter(folder, base, lifted, variables)
    found = training.read_adapter(folder, base, lifted, shapes)
    assert found.keys() == {"adapter", "head"}
    for part, tree in found.items():
        assert jax.tree.structure(tree) == jax.tree.structure(variables[part])
        for ours, theirs in zip(*map(jax.tree.leaves, (tree, variables[part])), strict=True):
            np.testing.assert_array_equal(ours, theirs)
