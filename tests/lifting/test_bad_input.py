"""What `lift` and a lifted function refuse: each a sentence that says what would fit."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

import lora_jax as lora

PARAMS = {
    "layer": {"w": jnp.ones((8, 6)), "bias": jnp.ones(6)},
    "table": jnp.arange(12).reshape(3, 4),
}
X = jnp.ones((5, 8))


def model(params, x):
    return x @ params["layer"]["w"] + params["layer"]["bias"]


def lift(**keywords):
    keywords = {"method": lora.LoRA(rank=2), "targets": ("w",)} | keywords
    return lora.lift(model, PARAMS, X, **keywords)


@pytest.fixture(scope="module")
def lifted():
    return lift()


@pytest.fixture(scope="module")
def factors(lifted):
    return lifted.init(jax.random.key(0), PARAMS)


def test_factors_of_another_rank_are_refused(lifted):
    other = lift(method=lora.LoRA(rank=3)).init(jax.random.key(0), PARAMS)
    with pytest.raises(ValueError, match=r"layer/w.*\(8, 3\).*\(8, 2\)"):
        lifted(PARAMS, other, X)


def test_factors_for_another_weight_are_refused(lifted, factors):
    renamed = {"decoder/w": factors["layer/w"]}
    with pytest.raises(ValueError, match="layer/w"):
        lifted(PARAMS, renamed, X)


def test_factors_with_a_weight_too_many_are_refused(lifted, factors):
    with pytest.raises(ValueError, match="decoder/w"):
        lifted(PARAMS, factors | {"decoder/w": factors["layer/w"]}, X)


def test_factors_that_lack_an_array_are_refused(lifted, factors):
    with pytest.raises(ValueError, match=r"layer/w.*\['a'\].*\['a', 'b'\]"):
        lifted(PARAMS, {"layer/w": {"a": factors["layer/w"]["a"]}}, X)


def test_factors_that_are_integers_are_refused(lifted, factors):
    integers = jax.tree.map(lambda leaf: leaf.astype(jnp.int32), factors)
    with pytest.raises(ValueError, match="int32"):
        lifted(PARAMS, integers, X)


def test_factors_are_checked_on_merging_and_unmerging_too(lifted, factors):
    for method in (lifted.merge, lifted.unmerge):
        with pytest.raises(ValueError, match="layer/w"):
            method(PARAMS, {})


def test_params_of_another_shape_are_refused(lifted, factors):
    other = {**PARAMS, "layer": {"w": jnp.ones((8, 7)), "bias": jnp.ones(7)}}
    with pytest.raises(ValueError, match=r"layer/w.*\(8, 7\).*\(8, 6\)"):
        lifted(other, factors, X)


def test_params_without_the_weight_are_refused(lifted, factors):
    with pytest.raises(ValueError, match="layer/w"):
        lifted.merge({"layer": {"kernel": PARAMS["layer"]["w"]}}, factors)


def test_an_integer_array_is_no_target():
    with pytest.raises(ValueError, match="table"):
        lift(targets=("table",))


def test_a_vector_is_no_target():
    with pytest.raises(ValueError, match="bias"):
        lift(targets=("bias",))


def test_a_weight_that_the_model_never_uses_is_refused_or_named():
    unused = {**PARAMS, "spare": {"kernel": jnp.ones((4, 4))}}
    with pytest.raises(ValueError, match="spare"):
        lora.lift(model, unused, X, targets=("spare",), method=lora.LoRA(rank=2))


def test_a_rank_that_fits_no_longer_after_an_override_is_refused():
    with pytest.raises(ValueError, match="rank 7"):
        lift(targets={"w": 7})


def test_an_override_that_is_no_method_is_refused():
    with pytest.raises(ValueError, match="'eight'"):
        lift(targets={"w": "eight"})


def test_an_exception_of_the_model_comes_through_as_it_is():
    def broken(params, x):
        raise KeyError("a name the model lacks")

    with pytest.raises(KeyError, match="a name the model lacks"):
        lora.lift(broken, PARAMS, X, targets=("w",))


def test_lifting_abstract_params_allocates_nothing():
    huge = {"w": jax.ShapeDtypeStruct((200_000, 200_000), jnp.float32)}  # 160 GB
    x = jax.ShapeDtypeStruct((1, 200_000), jnp.float32)
    lifted = lora.lift(lambda p, x: x @ p["w"], huge, x, targets=("w",), method=lora.LoRA(rank=4))
    factors = jax.eval_shape(lifted.init, jax.random.key(0), huge)
    assert factors["w"]["a"].shape == (200_000, 4)
    assert jax.eval_shape(lifted, huge, factors, x).shape == (1, 200_000)
