"""Tied weights: one table that is looked up and is the output head too."""

import jax
import jax.numpy as jnp
import numpy as np

import lora_jax as lora

PARAMS = {"embed": {"embedding": jax.random.normal(jax.random.key(0), (9, 4))}}
IDS = jnp.array([1, 5, 5, 8])


def model(params, ids):
    table = params["embed"]["embedding"]
    return jnp.tanh(table[ids]) @ table.T


def test_an_adapter_of_a_tied_table_moves_the_look_up_and_the_head_alike():
    """There is one weight, so there is one adapter: what PEFT's `ensure_weight_tying` asks for."""
    lifted = lora.lift(model, PARAMS, IDS, method=lora.LoRA(rank=2), targets="embed", strict=True)
    assert [site.path for site in lifted.sites] == ["embed/embedding"]
    factors = jax.tree.map(lambda x: x + 0.2, lifted.init(jax.random.key(1), PARAMS))
    table = PARAMS["embed"]["embedding"] + 8.0 * (
        factors["embed/embedding"]["a"] @ factors["embed/embedding"]["b"]
    )
    wanted = np.tanh(table[IDS]) @ table.T
    np.testing.assert_allclose(lifted(PARAMS, factors, IDS), wanted, rtol=1e-4, atol=1e-5)


def test_token_rows_of_a_tied_table_move_the_logits_of_those_tokens_too():
    method = lora.TokenRows(ids=(5, 7))
    lifted = lora.lift(model, PARAMS, IDS, method=method, targets="embed", strict=True)
    factors = lifted.init(jax.random.key(1), PARAMS)
    factors["embed/embedding"]["rows"] += 0.5
    found, base = lifted(PARAMS, factors, IDS), model(PARAMS, IDS)
    table = np.array(PARAMS["embed"]["embedding"])
    table[[5, 7]] += 0.5
    np.testing.assert_allclose(found, np.tanh(table[IDS]) @ table.T, rtol=1e-5, atol=1e-5)
    # A token without a row of its own, before no such token: as before.
    np.testing.assert_allclose(found[0, :5], base[0, :5], rtol=1e-6)
    assert np.abs(found[0, 7] - base[0, 7]) > 1e-3
