"""DeBERTa beyond what the recorded cases show: distances, compilation, refusals."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.case import QUICK, error
from safetensors.numpy import load_file, save_file

from lora_jax import hub, models
from lora_jax.hub.deberta import read_config
from lora_jax.models.disentangled import bucket, skew

FIXTURES = Path(__file__).parent.parent / "fixtures"


def run(model, *inputs):
    return jax.jit(model.apply, compiler_options=QUICK)(model.params, *inputs)


def inputs_of(name):
    expected = np.load(FIXTURES / name / "expected.npz")
    return expected["input_ids"], expected["attention_mask"]


@pytest.mark.parametrize(("buckets", "farthest"), [(4, 12), (32, 128), (256, 512)])
def test_buckets_are_odd_rise_with_distance_and_end_at_the_farthest(buckets, farthest):
    distances = np.arange(farthest)
    found = bucket(distances, buckets, farthest)
    middle = buckets // 2
    assert np.array_equal(found[: middle + 1], distances[: middle + 1])
    assert np.isin(np.diff(found), [0, 1, 2]).all()  # the first wide bucket may be skipped
    assert found[-1] == buckets - 1
    assert np.array_equal(bucket(-distances, buckets, farthest), -found)


def test_the_buckets_of_the_published_models():
    # 128 + ceil(127 · ln(d / 128) / ln(511 / 128)), worked out by hand.
    assert bucket(np.array([127, 128, 129, 200, 300, 400, 511]), 256, 512).tolist() == [
        *(127, 128, 129, 169, 207, 233, 255)
    ]


def test_skewing_puts_the_score_of_each_distance_in_its_place():
    scores = np.random.default_rng(0).normal(size=(2, 5, 10))
    wanted = [[[row[k - q + 4] for k in range(5)] for q, row in enumerate(x)] for x in scores]
    assert np.array_equal(skew(jnp.asarray(scores, jnp.float32)), np.float32(wanted))
    assert skew(jnp.ones((3, 1, 2))).shape == (3, 1, 1)


def test_no_array_has_a_vector_for_every_pair_of_places():
    length = 48
    config = read_config(fields("deberta"))
    model = models.build(config)
    ids = jax.ShapeDtypeStruct((1, length), jnp.int32)
    jaxpr = jax.make_jaxpr(model.apply)(model.shapes, ids, ids).jaxpr
    largest = max(np.prod(shape) for shape in shapes(jaxpr))
    assert largest == config.heads * length * 2 * length  # the scores by distance


def shapes(jaxpr):
    """The shapes of all intermediate arrays, inner programs included."""
    for eqn in jaxpr.eqns:
        yield from (v.aval.shape for v in eqn.outvars)
        for inner in jax.tree.leaves(eqn.params, is_leaf=lambda x: hasattr(x, "jaxpr")):
            if hasattr(inner, "jaxpr"):
                yield from shapes(inner.jaxpr)


@pytest.mark.parametrize(("scan", "remat"), [(False, "none"), (True, "full"), (False, "full")])
def test_scanned_unrolled_and_rematerialised_models_are_equal(scan, remat):
    inputs = inputs_of("deberta_conv")
    wanted = run(hub.load_model(FIXTURES / "deberta_conv"), *inputs)
    found = run(hub.load_model(FIXTURES / "deberta_conv", scan=scan, remat=remat), *inputs)
    assert error(found, wanted) < 1e-6


def test_padding_changes_no_real_token():
    model = hub.load_model(FIXTURES / "deberta_conv")
    ids, mask = inputs_of("deberta_conv")
    longer = [np.pad(x, [(0, 0), (0, 3)]) for x in (ids, mask)]
    real = mask[..., None] != 0
    found = np.where(real, run(model, *longer)[:, :7], 0)
    assert error(found, np.where(real, run(model, ids, mask), 0)) < 1e-6


def test_bfloat16_is_close_to_float32():
    inputs = inputs_of("deberta_conv")
    wanted = run(hub.load_model(FIXTURES / "deberta_conv"), *inputs)
    found = run(hub.load_model(FIXTURES / "deberta_conv", dtype="bfloat16"), *inputs)
    assert found.dtype == jnp.bfloat16
    real = inputs[1][..., None] != 0
    assert error(np.where(real, found.astype(jnp.float32), 0), np.where(real, wanted, 0)) < 0.05


@pytest.mark.parametrize("name", ["deberta_masked_lm", "deberta_masked_lm_legacy"])
def test_the_masked_lm_head_is_read_under_either_name(name, tmp_path):
    tensors = load_file(FIXTURES / name / "model.safetensors")
    new, old = "lm_predictions.lm_head.", "cls.predictions."
    if any(key.startswith(new) for key in tensors):
        tensors = {key.replace(f"{new}bias", f"{old}bias"): x for key, x in tensors.items()}
        tensors = {key.replace(new, f"{old}transform."): x for key, x in tensors.items()}
    else:
        tensors = {key.replace(f"{old}transform.", new): x for key, x in tensors.items()}
        tensors = {key.replace(old, new): x for key, x in tensors.items()}
    assert set(tensors) != set(load_file(FIXTURES / name / "model.safetensors"))
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((FIXTURES / name / "config.json").read_text())
    found = hub.load_model(tmp_path, head="masked_lm").params
    wanted = hub.load_model(FIXTURES / name, head="masked_lm").params
    assert jax.tree.all(jax.tree.map(np.array_equal, found, wanted))


def test_a_text_may_be_of_any_length_where_there_is_no_table_of_positions():
    ids = np.ones((1, 13), np.int32)
    assert run(hub.load_model(FIXTURES / "deberta"), ids, ids).shape == (1, 13, 16)
    with pytest.raises(ValueError, match="13 tokens long, but the model has positions for 12"):
        run(hub.load_model(FIXTURES / "deberta_absolute"), ids, ids)


def fields(name):
    return json.loads((FIXTURES / name / "config.json").read_text())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pos_att_type": "p2p|c2p"}, "pos_att_type 'p2p' is not supported; known: c2p, p2c"),
        ({"norm_rel_ebd": "batch_norm"}, "norm_rel_ebd 'batch_norm' is not supported"),
        ({"attention_head_size": 4}, "attention_head_size is 4, but only 8 fits"),
        ({"pooler_hidden_size": 8}, "pooler_hidden_size is 8, but only 16 fits"),
        ({"conv_kernel_size": 4}, "conv_width 4 is even"),
        ({"conv_groups": 3}, "dim 16 is not a multiple of conv_groups 3"),
        ({"conv_act": "mish"}, "unknown conv_activation 'mish'"),
        ({"max_relative_positions": 3}, "farthest is 3, but with 4 buckets"),
        ({"num_attention_heads": 3}, "attention_head_size"),
    ],
)
def test_a_config_that_is_not_supported_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        read_config(fields("deberta") | {"attention_head_size": 8} | change)


def test_the_new_masked_lm_head_needs_a_table_as_wide_as_the_hidden_state():
    config = dataclasses.replace(read_config(fields("deberta")), embed_dim=12, legacy=False)
    with pytest.raises(ValueError, match="needs embed_dim 12 to be dim 16"):
        dataclasses.replace(config, head="masked_lm")
