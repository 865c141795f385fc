import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lora_jax.training.rules import RULES, make_rule

PARAMS = {
    "adapter": {
        "layers/q_proj/kernel": {
            "a": jax.random.normal(jax.random.key(0), (3, 6, 2)),
            "b": jax.random.normal(jax.random.key(1), (3, 2, 5)),
            "m": jnp.ones((3, 5)),
        }
    },
    "head": {"kernel": jax.random.normal(jax.random.key(2), (5, 4)), "bias": jnp.ones(4)},
}


def gradient(step):
    draw = lambda x: jax.random.normal(jax.random.key(x.size + 100 * step), x.shape)
    return jax.tree.map(draw, PARAMS)


def follow(rule, steps=3, params=PARAMS, gradients=gradient):
    state, update = rule.init(params), jax.jit(rule.update)
    for step in range(steps):
        updates, state = update(gradients(step), state, params)
        params = optax.apply_updates(params, updates)
    return params


REFERENCES = {
    "adamw": lambda: optax.adamw(0.1, weight_decay=0.0),
    "adam": lambda: optax.adam(0.1),
    "adafactor": lambda: optax.adafactor(0.1),
    "lion": lambda: optax.lion(0.1, weight_decay=0.0),
    "sgd": lambda: optax.sgd(0.1, momentum=0.9),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_a_rule_is_that_of_optax(name):
    ours = follow(optax.chain(make_rule(name, {}), optax.scale(-0.1)))
    compare = lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7)
    jax.tree.map(compare, ours, follow(REFERENCES[name]()))


def test_every_rule_is_compared():
    assert RULES.keys() == REFERENCES.keys() | {"muon"}


def layer(tree, number):
    """One layer of the stacked factors; the head, which is not stacked, stays."""
    return {**tree, "adapter": jax.tree.map(lambda x: x[number], tree["adapter"])}


def test_muon_takes_each_layer_of_stacked_factors_by_itself():
    rule = optax.chain(make_rule("muon", {"ns_steps": 5}), optax.scale(-0.1))
    together = follow(rule)
    for number in range(3):
        alone = follow(
            rule, params=layer(PARAMS, number), gradients=lambda s, n=number: layer(gradient(s), n)
        )
        compare = lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)
        jax.tree.map(compare, layer(together, number), alone)


def test_muon_moves_matrices_along_every_direction_alike_and_the_rest_by_adam():
    rule = make_rule("muon", {})
    updates, _ = rule.update(gradient(0), rule.init(PARAMS), PARAMS)
    factors = updates["adapter"]["layers/q_proj/kernel"]
    for matrix in (*factors["a"], updates["head"]["kernel"]):
        values = np.linalg.svd(matrix, compute_uv=False)
        assert values.min() > 0.5 * values.max()
    adam = optax.scale_by_adam(nesterov=True)
    reference, _ = adam.update(gradient(0), adam.init(PARAMS), PARAMS)
    np.testing.assert_allclose(updates["head"]["bias"], reference["head"]["bias"], rtol=1e-5)
    magnitudes = reference["adapter"]["layers/q_proj/kernel"]["m"]
    np.testing.assert_allclose(factors["m"], magnitudes, rtol=1e-5)


def test_the_first_moment_may_be_kept_in_bfloat16():
    state = make_rule("adamw", {"mu_dtype": "bfloat16"}).init(PARAMS)
    assert {x.dtype.name for x in jax.tree.leaves(state.mu)} == {"bfloat16"}


@pytest.mark.parametrize(
    ("name", "argument", "nearest"),
    [
        ("lion", "eps", "b1"),
        ("sgd", "nestrov", "nesterov"),
        ("muon", "learning_rate", "all: ns_coeffs, ns_steps, beta"),
        ("adafactor", "weight_decay_rate", "decay_rate"),
    ],
)
def test_an_argument_that_a_rule_does_not_take_is_refused(name, argument, nearest):
    with pytest.raises(ValueError, match=f"takes no '{argument}'; nearest: .*{nearest}"):
        make_rule(name, {argument: 1.0})
