import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lora_jax import training
from tests.training import toy


def batch():
    return jax.device_put(next(toy.data()))


def test_an_update_is_the_one_written_out_by_hand():
    step, state, frozen = toy.build(10, warmup=0, clip=None)
    key = jax.random.fold_in(state.key, 0)
    whole = training.join(state.trainable, frozen)
    trained = {name: whole[name] for name in ("adapter", "head")}

    def loss_of(trained):
        return toy.loss_fn({"params": whole["params"], **trained}, batch(), key)[0]

    loss, gradient = jax.value_and_grad(loss_of)(trained)
    adam = optax.adam(0.05)
    updates, _ = adam.update(gradient, adam.init(trained), trained)
    expected = optax.apply_updates(trained, updates)

    after, metrics = step(state, frozen, batch())
    found = {name: after.trainable[name] for name in trained}
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), found, expected)
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-6)
    np.testing.assert_allclose(metrics["grad_norm"], optax.tree.norm(gradient), rtol=1e-6)
    np.testing.assert_allclose(metrics["lr"], 0.05, rtol=1e-6)
    assert metrics["worst"] > 0
    assert after.step == 1


def test_the_state_is_donated_and_nothing_else_is():
    step, state, frozen = toy.build(10)
    tree = toy.variables()
    now = batch()
    step(state, frozen, now)
    assert all(x.is_deleted() for x in jax.tree.leaves((state.trainable, state.opt_state)))
    assert not any(x.is_deleted() for x in jax.tree.leaves((frozen, now, tree)))


def test_a_run_leaves_the_arrays_it_started_from_alone():
    tree = toy.variables()
    labels = training.label(tree, [(".*", "all")])
    optimizer = training.make_optimizer({}, labels, 10)
    key = jax.random.key(0)
    state, frozen = training.init_state(tree, labels, optimizer, key)
    training.make_step(toy.loss_fn, optimizer)(state, frozen, batch())
    assert not any(x.is_deleted() for x in jax.tree.leaves((tree, key)))


def test_each_step_has_its_own_randomness_and_the_run_its_key():
    step, state, frozen = toy.build(10, learning_rate=0.0)
    now, losses = batch(), []
    state = state._replace(trainable=jax.tree.map(jnp.ones_like, state.trainable))
    for _ in range(3):
        state, metrics = step(state, frozen, now)
        losses.append(float(metrics["loss"]))
    assert len(set(losses)) == 3
    np.testing.assert_array_equal(jax.random.key_data(state.key), [0, 3])


def test_what_is_not_put_on_the_device_is_refused_by_the_guard():
    step, state, frozen = toy.build(10)
    with jax.transfer_guard("disallow"):
        state, _ = step(state, frozen, batch())
        with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
            step(state, frozen, next(toy.data()))
