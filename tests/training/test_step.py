import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lora_jax import training
from tests.training import toy


def batch():
    return jax.device_put(next(toy.data()))


def shapes_in(tree):
    return {x.shape for x in jax.tree.leaves(tree)}


def values_in(jaxpr):
    """Yields every value that a program computes, inner programs included."""
    for equation in jaxpr.eqns:
        yield from (out.aval for out in equation.outvars)
        for inner in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")
        ):
            if hasattr(inner, "eqns"):
                yield from values_in(inner)
            elif hasattr(inner, "jaxpr"):
                yield from values_in(inner.jaxpr)


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
    assert metrics["worst"] > 0 and after.step == 1


def test_frozen_arrays_are_bit_identical_after_20_steps():
    step, state, frozen = toy.build(20)
    before = [np.array(x) for x in jax.tree.leaves(frozen)]
    start = [np.array(x) for x in jax.tree.leaves(state.trainable)]
    for _ in range(20):
        state, _ = step(state, frozen, batch())
    assert len(before) == 2
    for x, y in zip(before, jax.tree.leaves(frozen), strict=True):
        np.testing.assert_array_equal(x, y)
    assert all((x != y).any() for x, y in zip(start, jax.tree.leaves(state.trainable), strict=True))


def test_no_gradient_and_no_optimiser_state_of_a_frozen_shape_exists():
    step, state, frozen = toy.build(10)
    frozen_shape = (toy.INS, toy.OUTS)
    assert frozen_shape in shapes_in(frozen) and frozen_shape not in shapes_in(state)
    # Nothing in the traced program has the shape of the matrix (the batch of 4 keeps it apart).
    traced = jax.make_jaxpr(step)(state, frozen, batch())
    assert frozen_shape not in {x.shape for x in values_in(traced.jaxpr) if hasattr(x, "shape")}
    # And in the compiled one it is only ever read: a parameter, or passed on as an operand.
    compiled = step.lower(state, frozen, batch()).compile().as_text()
    made = [line for line in compiled.splitlines() if f" = f32[{toy.INS},{toy.OUTS}]" in line]
    assert made and all(" parameter(" in line for line in made)


def test_full_fine_tuning_does_have_that_gradient():
    """The search of the test before this one finds what it looks for."""
    rules = [("params/.*", "params"), ("(adapter|head)/.*", None)]
    step, state, frozen = toy.build(10, rules=rules)
    frozen_shape = (toy.INS, toy.OUTS)
    assert frozen_shape in shapes_in(state.opt_state)
    traced = jax.make_jaxpr(step)(state, frozen, batch())
    assert frozen_shape in {x.shape for x in values_in(traced.jaxpr) if hasattr(x, "shape")}


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


def test_it_compiles_once():
    traces = []

    def counted(variables, batch, key):
        traces.append(1)
        return toy.loss_fn(variables, batch, key)

    step, state, frozen = toy.build(10, loss=counted)
    compiles = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, _, **__: compiles.append(name) if "backend_compile" in name else None
    )
    for _ in range(3):
        state, metrics = step(state, frozen, batch())
        jax.block_until_ready(metrics)
        compiles_after_first = len(compiles) if len(traces) == 1 and state.step == 1 else None
    assert len(traces) == 1
    del compiles_after_first


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
