"""BERT and RoBERTa compute the same however they are compiled, and nothing of padding."""

import dataclasses
from pathlib import Path

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from golden.case import QUICK

from lora_jax import hub, models
from lora_jax.models.stack import REMAT_POLICIES

FIXTURES = Path(__file__).parent.parent / "fixtures"
TINY = models.BertConfig(
    vocab_size=30, dim=16, layers=2, heads=4, ff_dim=24, positions=12, eps=1e-5
)


def relative(found, wanted):
    return float(np.linalg.norm(np.asarray(found) - wanted) / np.linalg.norm(wanted))


def run(model, params, *inputs):
    return jax.jit(model.apply, compiler_options=QUICK)(params, *inputs)


def gradients(model, params, inputs, probe):
    def loss(params):
        hidden = model.apply(params, *inputs)
        return (hidden * probe).sum(), hidden

    return jax.jit(jax.grad(loss, has_aux=True), compiler_options=QUICK)(params)


def random_batch(config, *lengths, seed=0):
    rng = np.random.default_rng(seed)
    mask = np.array([[1] * n + [0] * (max(lengths) - n) for n in lengths], np.int32)
    ids = rng.integers(2, config.vocab_size, mask.shape).astype(np.int32)
    return np.where(mask, ids, config.pad_id), mask, rng.integers(0, config.types, mask.shape)


def random_model(config, seed=0):
    params = models.init(config, jax.random.key(seed))
    # Larger than fresh weights, so that softmax and gates are far from linear.
    params = jax.tree.map_with_path(lambda path, p: p if "norm" in str(path) else 10 * p, params)
    return models.build(config), params


@pytest.fixture(scope="module")
def plain():
    """A scanned model with its inputs, gradients and outputs."""
    inputs = random_batch(TINY, 9, 4)
    probe = np.random.default_rng(1).normal(size=(*inputs[0].shape, TINY.dim)).astype(np.float32)
    model, params = random_model(TINY)
    return params, inputs, probe, gradients(model, params, inputs, probe)


@pytest.mark.parametrize(
    ("remat", "scan"),
    [*((remat, True) for remat in REMAT_POLICIES), ("none", False), ("full", False)],
)
def test_scanned_unrolled_and_rematerialised_models_are_equal(plain, remat, scan):
    params, inputs, probe, (wanted, wanted_hidden) = plain
    model = models.build(dataclasses.replace(TINY, scan=scan, remat=remat))
    found, hidden = gradients(model, params, inputs, probe)
    assert relative(hidden, wanted_hidden) < 1e-6
    flat = jax.flatten_util.ravel_pytree
    assert relative(flat(found)[0], flat(wanted)[0]) < 1e-6


@pytest.mark.parametrize("name", ["bert", "roberta"])
def test_padding_changes_no_real_token(name):
    model = hub.load_model(FIXTURES / name)
    pad = model.config.pad_id
    short = random_batch(model.config, 5, 5)
    ids, mask, types = (np.pad(x, [(0, 0), (0, 4)]) for x in short)
    long = np.where(mask, ids, pad), mask, types
    wanted = run(model, model.params, *short)
    assert relative(run(model, model.params, *long)[:, :5], wanted) < 1e-6


def test_roberta_numbers_real_tokens_from_after_the_padding_id():
    config = dataclasses.replace(TINY, pad_id=1, positions_skip_padding=True)
    encoder = models.FAMILIES["roberta"](config, nnx.Rngs(0))
    numbered = encoder.number(jnp.array([[7, 8, 9, 1, 1], [1, 1, 7, 1, 8]]))
    assert numbered.tolist() == [[2, 3, 4, 1, 1], [1, 1, 2, 1, 3]]
    assert config.max_length == config.positions - 2


def test_absent_type_ids_are_zero():
    ids, mask, _ = random_batch(TINY, 6, 3)
    model, params = random_model(TINY)
    given = run(model, params, ids, mask, np.zeros_like(ids))
    assert np.array_equal(run(model, params, ids, mask), given)


def test_rows_of_padding_alone_stay_finite():
    model, params = random_model(TINY)
    ids = np.full((1, 4), TINY.pad_id, np.int32)
    assert np.isfinite(run(model, params, ids, np.zeros_like(ids))).all()


def products(jaxpr):
    """All dot_general equations, inner programs included."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            yield eqn
        for inner in jax.tree.leaves(eqn.params, is_leaf=lambda x: hasattr(x, "jaxpr")):
            if hasattr(inner, "jaxpr"):
                yield from products(inner.jaxpr)
            elif hasattr(inner, "eqns"):
                yield from products(inner)


def trace(config):
    model = models.build(config)
    return jax.make_jaxpr(model.apply)(model.shapes, *random_batch(config, 6, 3)).jaxpr


def test_products_take_bfloat16_and_sum_in_float32():
    found = list(products(trace(dataclasses.replace(TINY, dtype="bfloat16"))))
    assert len(found) == 8  # six projections and two products of attention, once in the scan
    for eqn in found:
        assert {v.aval.dtype for v in eqn.invars} == {jnp.dtype("bfloat16")}
        assert eqn.params["preferred_element_type"] == jnp.float32


def test_a_scanned_model_is_one_layer_long_and_an_unrolled_one_all_layers():
    assert len(list(products(trace(TINY)))) == 8
    assert len(list(products(trace(dataclasses.replace(TINY, scan=False))))) == 8 * TINY.layers


def test_bfloat16_is_close_to_float32():
    inputs = random_batch(TINY, 9, 4)
    model, params = random_model(TINY)
    low = models.build(dataclasses.replace(TINY, dtype="bfloat16"))
    rounded = run(low, params, *inputs)
    assert rounded.dtype == jnp.bfloat16
    # bfloat16 keeps 8 bits; a few roundings a layer add up to some per cent.
    assert relative(rounded.astype(jnp.float32), run(model, params, *inputs)) < 0.05


def test_building_allocates_nothing_and_agrees_with_init():
    shapes = models.build(TINY).shapes
    assert all(isinstance(x, jax.ShapeDtypeStruct) for x in jax.tree.leaves(shapes))
    params = models.init(TINY, jax.random.key(0))
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, shapes)
    assert jax.tree.map(lambda x: x.dtype, params) == jax.tree.map(lambda x: x.dtype, shapes)


def test_fresh_layers_differ_from_each_other():
    kernel = models.init(TINY, jax.random.key(0))["layers"]["q_proj"]["kernel"]
    assert not np.allclose(kernel[0], kernel[1])


def test_a_batch_longer_than_the_positions_is_refused():
    model, params = random_model(TINY)
    ids = np.ones((1, 13), np.int32)
    with pytest.raises(ValueError, match="13 tokens long, but the model has positions for 12"):
        run(model, params, ids, ids)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dim": 18}, "dim 18 is not a multiple of heads 4"),
        ({"activation": "gleu"}, "unknown activation 'gleu'; known: gelu"),
        ({"remat": "all"}, "unknown remat 'all'; known: none, dots"),
        ({"dtype": "bf16"}, "unknown dtype 'bf16'; known: float32, bfloat16"),
        ({"head": "qa"}, "unknown head 'qa'; known: classification, token_classification"),
        ({"head": "regression", "pooler": True}, "pooler is for models without a head"),
        ({"head": "classification", "classes": 0}, "classes is 0"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **change)


def test_an_unknown_family_is_refused():
    with pytest.raises(ValueError, match=r"unknown model_type 'bart'; known: bert, .*roberta"):
        models.build(dataclasses.replace(TINY, model_type="bart"))
