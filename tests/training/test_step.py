import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lora_jax as lora
from lora_jax import training
from lora_jax.data import pack
from lora_jax.training import classifier, language_model
from tests.training import toy

FIXTURES = Path(__file__).parent.parent / "fixtures"


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


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_a_run_of_twenty_steps_compiles_its_step_once(micro_batches):
    compiled = []

    def listen(event, _seconds, fun_name="", **_):
        if event == "/jax/core/compile/backend_compile_duration" and fun_name == "jit(step)":
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    tree = toy.variables()
    labels = training.label(tree, training.LORA)
    optimizer = training.make_optimizer({}, labels, 20)
    state, frozen = training.init_state(tree, labels, optimizer, jax.random.key(3))
    step = training.make_step(toy.loss_fn, optimizer, micro_batches=micro_batches)
    result = training.train(step, state, frozen, toy.data(), steps=20)
    assert result.state.step == 20
    assert len(compiled) == 1


# ---------------------------------------------------------------------------------------------
# Micro-batches


def decoder_run(dtype):
    """A decoder, its loss, and a batch whose rows have from none to 10 trained tokens."""
    base = lora.hub.load_model(FIXTURES / "gpt2", dtype=dtype)
    lifted = lora.lift(base.apply, base.params, np.zeros((1, 12), np.int32), targets=("q_proj",))
    variables = language_model.init_variables(base, lifted, jax.random.key(0))
    rng = np.random.default_rng(0)
    ids = rng.integers(5, 40, (8, 12)).astype(np.int32)
    learnt = [0, 1, 10, 3, 0, 7, 2, 5]
    examples = [
        {"ids": row, "trained": (np.arange(12) >= 12 - n).astype(np.int32)}
        for row, n in zip(ids, learnt, strict=True)
    ]
    loss = functools.partial(language_model.loss, language_model.make_outputs(base, lifted))
    return variables, loss, pack(examples, 12)


def encoder_run(dtype):
    """An encoder with a head, its loss, and a batch."""
    base = lora.hub.load_model(FIXTURES / "bert", dtype=dtype)
    ids = np.random.default_rng(0).integers(5, 40, (8, 6)).astype(np.int32)
    batch = {"ids": ids, "mask": np.ones_like(ids), "type_ids": 0 * ids}
    lifted = lora.lift(base.apply, base.params, *batch.values(), targets=("q_proj",))
    variables = classifier.init_variables(base, lifted, 3, jax.random.key(0))
    batch["label"] = np.arange(8, dtype=np.int32) % 3
    loss = functools.partial(classifier.loss, classifier.make_outputs(base, lifted, "mean"))
    return variables, loss, batch


def update(run, micro_batches, dtype="float32", shard=False):
    """The gradient and the metrics of one step, told by plain gradient descent."""
    variables, loss, batch = run(dtype)
    # Factors of the size of the weights: where B is zero A has no gradient.
    variables["adapter"] = jax.tree.map(lambda x: (x + 0.1).astype(dtype), variables["adapter"])
    labels = training.label(variables, [("(adapter|head)/.*", "all"), (".*", None)])
    settings = {"name": "sgd", "learning_rate": 1.0, "clip": None, "warmup": 0}
    optimizer = training.make_optimizer({**settings, "schedule": "constant"}, labels, 10)
    state, frozen = training.init_state(variables, labels, optimizer, jax.random.key(1))
    shardings = None
    if shard:
        mesh = training.make_mesh({"data": 2}, jax.devices()[:2])
        placed = training.variable_shardings(mesh, variables, [])
        shardings = training.step_shardings(mesh, placed, labels, optimizer, state)
        state, frozen = (
            jax.device_put(state, shardings.state),
            jax.device_put(frozen, shardings.frozen),
        )
    step = training.make_step(loss, optimizer, shardings, micro_batches)
    before = jax.tree.map(np.asarray, state.trainable)
    after, metrics = step(state, frozen, batch)
    gradient = jax.tree.map(lambda x, y: x - np.asarray(y), before, after.trainable)
    return jax.tree.leaves(gradient), {name: float(value) for name, value in metrics.items()}


def assert_equal_updates(found, wanted, tolerance):
    for x, y in zip(found[0], wanted[0], strict=True):
        # The factors are about 0.1, which bounds the rounding of the difference.
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance)
    assert any(np.abs(y).max() > 1e-3 for y in wanted[0])
    assert found[1].keys() == wanted[1].keys()
    for name, value in wanted[1].items():
        assert found[1][name] == pytest.approx(value, rel=10 * tolerance), name


@pytest.mark.parametrize("run", [decoder_run, encoder_run])
def test_micro_batches_make_the_update_of_the_whole_batch_to_twelve_digits(run):
    with jax.enable_x64(True):
        assert_equal_updates(update(run, 4, "float64"), update(run, 1, "float64"), 1e-12)


def test_micro_batches_over_devices_make_the_same_update():
    assert_equal_updates(update(decoder_run, 2, shard=True), update(decoder_run, 1), 1e-6)


def toy_step(micro_batches, loss):
    tree = toy.variables()
    labels = training.label(tree, training.LORA)
    optimizer = training.make_optimizer({}, labels, 10)
    state, frozen = training.init_state(tree, labels, optimizer, jax.random.key(3))
    step = training.make_step(loss, optimizer, micro_batches=micro_batches)
    return lambda batch: step(state, frozen, batch)


def test_each_micro_batch_has_its_own_randomness():
    def loss(variables, batch, key):
        drawn = jax.random.uniform(key)
        return drawn * variables["head"]["scale"].sum(), {"square": drawn**2}

    _, metrics = toy_step(4, loss)({"x": jnp.zeros((4, 1))})
    scale = float(toy.variables()["head"]["scale"].sum())
    assert metrics["square"] > (metrics["loss"] / scale) ** 2 + 1e-4  # the draws have a variance


def test_a_loss_without_weight_counts_every_micro_batch_alike():
    def loss(variables, batch, key):
        return batch["x"].mean() * variables["head"]["scale"].sum(), {"rows": batch["x"].sum()}

    _, metrics = toy_step(2, loss)({"x": jnp.arange(4.0)})
    assert metrics["rows"] == 3.0
    assert "weight" not in metrics


def test_a_batch_that_micro_batches_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="a batch of 4 rows does not divide into 3 micro-batches"):
        toy_step(3, toy.loss_fn)(batch())
    with pytest.raises(ValueError, match="at least 1"):
        toy_step(0, toy.loss_fn)
