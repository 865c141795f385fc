import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest

from lora_jax.training import FROZEN, make_optimizer

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


def test_a_group_may_name_its_own_rate_and_rule():
    config = {"learning_rate": 0.1, "schedule": "constant", "warmup": 0, "clip": None, "b2": 0.9}
    groups = {"b": {"name": "lion", "learning_rate": 0.02}}
    ours = follow(make_optimizer({**config, "groups": groups}, LABELS, 10))
    np.testing.assert_allclose(ours["a"], follow(optax.adam(0.1, b2=0.9))["a"])
    np.testing.assert_allclose(ours["b"], follow(optax.lion(0.02, weight_decay=0.0))["b"])


def test_lora_plus_is_one_field_of_the_config():
    config = {"learning_rate": 0.01, "schedule": "constant", "warmup": 0, "clip": None}
    labels = {"params": {"w": FROZEN}, "adapter": {"a": "adapter", "b": "adapter"}}
    pace = {"adapter": {"multiplier": 0.5, "weight_decay": 0.1}}
    ours = follow(make_optimizer({**config, "lora_plus": 8.0, "groups": pace}, labels, 10))
    np.testing.assert_allclose(ours["a"], follow(optax.adamw(0.005, weight_decay=0.1))["a"])
    np.testing.assert_allclose(ours["b"], follow(optax.adamw(0.04, weight_decay=0.1))["b"])
    pace["adapter_b"] = {"learning_rate": 0.1}
    ours = follow(make_optimizer({**config, "lora_plus": 8.0, "groups": pace}, labels, 10))
    np.testing.assert_allclose(ours["b"], follow(optax.adamw(0.1, weight_decay=0.1))["b"])


def test_named_parts_do_not_decay():
    config = {"learning_rate": 0.1, "schedule": "constant", "warmup": 0, "clip": None}
    ours = follow(make_optimizer({**config, "weight_decay": 0.5, "no_decay": ["b"]}, LABELS, 10))
    np.testing.assert_allclose(ours["a"], follow(optax.adamw(0.1, weight_decay=0.5))["a"])
    np.testing.assert_allclose(ours["b"], follow(optax.adamw(0.1, weight_decay=0.0))["b"])


def test_a_config_dict_is_read_as_it_is():
    config = ml_collections.ConfigDict({"learning_rate": 0.1, "groups": {"b": {"multiplier": 2.0}}})
    make_optimizer(config, LABELS, 10)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"learning_rat": 0.1}, "optimizer has no field 'learning_rat'; nearest: learning_rate"),
        ({"name": "adamv"}, "optimizer.name = 'adamv' is unknown; choices: adamw, adam, adafactor"),
        ({"name": "adam", "weight_decay": 0.1}, "adam has none; choose adamw, or 0"),
        ({"name": "sgd", "b2": 0.9}, "the optimizer 'sgd' takes no 'b2'; nearest: b1"),
        ({"options": {"mu_dtyp": 1}}, "takes no 'mu_dtyp'; nearest: mu_dtype"),
        ({"no_decay": ["bais"]}, "optimizer.no_decay: 'bais' is part of no path that trains"),
        ({"lora_plus": 16}, "LoRA. needs factors b that train under the label 'adapter'"),
        ({"groups": {"c": {}}}, "optimizer.groups.c: no such label; labels that train: .'a', 'b'."),
        ({"groups": {"a": {"clip": 1}}}, "optimizer.groups.a has no field 'clip'"),
        ({"groups": {"a": {"multiplier": 2, "learning_rate": 1}}}, "one says it all"),
    ],
)
def test_a_bad_config_is_refused_with_the_valid_choices(config, message):
    with pytest.raises(ValueError, match=message):
        make_optimizer(config, LABELS, 10)


def test_a_run_that_trains_nothing_is_refused():
    with pytest.raises(ValueError, match="every array is frozen"):
        make_optimizer({}, {"params": {"w": FROZEN}}, 10)
