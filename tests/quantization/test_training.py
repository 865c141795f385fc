"""Training adapters over a quantised base follows training over the exact one."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from golden.case import QUICK

import lora_jax as lora
from lora_jax import models, training
from lora_jax.models.decoder import DecoderConfig

STEPS = 40
CONFIG = DecoderConfig(
    dim=64, ff_dim=128, layers=2, heads=2, kv_heads=2, head_dim=32, vocab_size=32, dtype="bfloat16"
)
MODEL = models.build(CONFIG)


@pytest.fixture(scope="module")
def base():
    """A model in bfloat16 whose matrices say something: ten times the usual weights."""
    make = jax.jit(lambda key: models.init(CONFIG, key), compiler_options=QUICK)
    return jax.tree.map(lambda leaf: leaf * 10 if leaf.std() else leaf, make(jax.random.key(0)))


@pytest.fixture(scope="module")
def ids():
    """Eight texts to be learnt by heart."""
    return jax.random.randint(jax.random.key(1), (8, 16), 0, CONFIG.vocab_size)


def lift(params, ids):
    method = lora.LoRA(8, 16)
    return lora.lift(MODEL.apply, params, ids, targets=lora.ALL_LINEAR, method=method, strict=True)


def cross_entropy(logits, ids):
    picked = jnp.take_along_axis(jax.nn.log_softmax(logits[:, :-1]), ids[:, 1:, None], -1)
    return -picked.mean()


def losses(params, ids):
    """The loss before each of some steps of LoRA over frozen params."""
    lifted, optimizer = lift(params, ids), optax.adam(1e-2)
    factors = lifted.init(jax.random.key(2), params)

    def step(factors, state, params, ids):
        loss = lambda factors: cross_entropy(lifted(params, factors, ids), ids)
        value, gradient = jax.value_and_grad(loss)(factors)
        changes, state = optimizer.update(gradient, state)
        return optax.apply_updates(factors, changes), state, value

    run, state = jax.jit(step, compiler_options=QUICK), optimizer.init(factors)
    found = []
    for _ in range(STEPS):
        factors, state, value = run(factors, state, params, ids)
        found.append(float(value))
    return np.array(found)


def test_the_loss_curve_of_qlora_follows_that_of_lora_on_bf16(base, ids):
    exact, quantised = losses(base, ids), losses(lora.quantize(base, "nf4"), ids)
    assert exact[-1] < 0.5 * exact[0]  # there is a curve to follow
    # The two start from other functions, W and W + ε with |ε| about a tenth of |W|, so they never
    # agree step by step; but what one learns the other does, to a tenth of where they began.
    assert np.abs(quantised - exact).max() < 0.1 * exact[0]
    assert np.abs(quantised - exact).mean() < 0.05 * exact[0]


def test_the_training_step_takes_a_quantised_base_as_frozen(base, ids):
    params = lora.quantize(base, "int8")
    lifted = lift(params, ids)
    variables = {"params": params, "adapter": lifted.init(jax.random.key(2), params)}
    labels = training.label(variables, [("adapter/.*", "lora"), ("params/.*", None)])
    optimizer = training.make_optimizer({"learning_rate": 1e-2}, labels, steps=STEPS)
    state, frozen = training.init_state(variables, labels, optimizer, jax.random.key(3))

    def loss(variables, batch, key):
        logits = lifted(variables["params"], variables["adapter"], batch["ids"], rng=key)
        return cross_entropy(logits, batch["ids"]), {}

    step = training.make_step(loss, optimizer)
    after, metrics = jax.eval_shape(step, state, frozen, {"ids": ids})
    assert jax.tree.structure(after) == jax.tree.structure(state)
    assert metrics["loss"].shape == ()
    stored = jax.tree.leaves(frozen["params"]["layers"]["q_proj"]["kernel"])
    assert [leaf.dtype for leaf in stored] == ["int8", "float32"]
    assert lora.count_parameters(state.trainable) == sum(s.num_parameters for s in lifted.sites)
