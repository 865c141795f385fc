import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest

from lora_jax.training import FROZEN, make_optimizer, make_schedule

LABELS = {"params": {"w": FROZEN}, "adapter": {"a": "a", "b": "b"}}
TRAINABLE = {"params": {"w": None}, "adapter": {"a": jnp.ones(3), "b": jnp.full(2, 2.0)}}
GRADIENT = {"params": {"w": None}, "adapter": {"a": jnp.ones(3), "b": jnp.full(2, -3.0)}}


def follow(optimizer, steps=4):
    params, state = TRAINABLE, optimizer.init(TRAINABLE)
    for _ in range(steps):
        updates, state = optimizer.update(GRADIENT, state, params)
        params = optax.apply_updates(params, updates)
    return params["adapter"]


def test_it_is_adamw_of_optax_where_nothing_is_overridden():
    config = {"learning_rate": 0.1, "warmup": 0, "clip": None, "weight_decay": 0.01}
    ours = follow(make_optimizer(config, LABELS, 10))
    reference = optax.adamw(optax.linear_schedule(0.1, 0.0, 10), weight_decay=0.01)
    jax.tree.map(np.testing.assert_allclose, ours, follow(reference))


def test_a_group_learns_at_its_own_rate():
    config = {"learning_rate": 0.1, "schedule": "constant", "warmup": 0, "clip": None}
    groups = {"b": {"multiplier": 16.0, "weight_decay": 0.1}}
    ours = follow(make_optimizer({**config, "groups": groups}, LABELS, 10))
    np.testing.assert_allclose(ours["a"], follow(optax.adamw(0.1, weight_decay=0.0))["a"])
    np.testing.assert_allclose(ours["b"], follow(optax.adamw(1.6, weight_decay=0.1))["b"])


def test_clipping_takes_the_norm_over_all_that_trains():
    config = {"learning_rate": 1.0, "schedule": "constant", "warmup": 0, "name": "sgd", "b1": 0.0}
    ours = follow(make_optimizer({**config, "clip": 0.5}, LABELS, 10), steps=1)
    norm = np.sqrt(3 * 1.0 + 2 * 9.0)
    np.testing.assert_allclose(ours["a"], 1.0 - 0.5 / norm, rtol=1e-6)
    np.testing.assert_allclose(ours["b"], 2.0 + 3 * 0.5 / norm, rtol=1e-6)


@pytest.mark.parametrize(("name", "at_half"), [("linear", 0.5), ("cosine", 0.5), ("constant", 1.0)])
def test_schedules_warm_up_and_decay(name, at_half):
    schedule = make_schedule({"learning_rate": 1.0, "schedule": name, "warmup": 0.2}, steps=100)
    assert [float(schedule(step)) for step in (0, 10, 20)] == [0.0, 0.5, 1.0]
    np.testing.assert_allclose(float(schedule(60)), at_half, atol=1e-6)
    np.testing.assert_allclose(float(schedule(100)), 1.0 if name == "constant" else 0.0, atol=1e-6)


def test_a_config_dict_is_read_as_it_is():
    config = ml_collections.ConfigDict({"learning_rate": 0.1, "groups": {"b": {"multiplier": 2.0}}})
    make_optimizer(config, LABELS, 10)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"learning_rat": 0.1}, "optimizer has no field 'learning_rat'; nearest: learning_rate"),
        ({"name": "adamv"}, "optimizer.name = 'adamv' is unknown; choices: adamw, sgd"),
        ({"schedule": "step"}, "optimizer.schedule = 'step' is unknown; choices: linear"),
        ({"warmup": 11}, "optimizer.warmup = 11 is 11 steps, of a run of 10"),
        ({"warmup": -0.1}, "optimizer.warmup = -0.1 is -1 steps"),
        ({"groups": {"c": {}}}, "optimizer.groups.c: no such label; labels that train: .'a', 'b'."),
        ({"groups": {"a": {"clip": 1}}}, "optimizer.groups.a has no field 'clip'"),
    ],
)
def test_a_bad_config_is_refused_with_the_valid_choices(config, message):
    with pytest.raises(ValueError, match=message):
        make_optimizer(config, LABELS, 10)


def test_a_run_that_trains_nothing_is_refused():
    with pytest.raises(ValueError, match="every array is frozen"):
        make_optimizer({}, {"params": {"w": FROZEN}}, 10)
