"""LoRA+ and LoRA-FA: how fast, and along which gradient, B learns."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lora_jax as lora
from lora_jax import training
from lora_jax.methods import project_gradients

FACTORS = {
    "w": {
        "a": jax.random.normal(jax.random.key(0), (6, 2)),
        "b": jax.random.normal(jax.random.key(1), (2, 5)),
    }
}
VARIABLES = {"adapter": FACTORS}
CONFIG = {"learning_rate": 1e-3, "schedule": "constant", "warmup": 0, "clip": None}


def gradients(seed):
    draw = lambda x: jax.random.normal(jax.random.key(seed + x.shape[0]), x.shape)
    return jax.tree.map(draw, VARIABLES)


def trained(steps):
    labels = training.label(VARIABLES, [("adapter/.*", "adapter")])
    labels, groups = training.lora_plus(labels, ratio=8.0)
    config = {**CONFIG, "weight_decay": 0.1, "groups": groups}
    optimizer = training.make_optimizer(config, labels, steps=10)
    variables, state = VARIABLES, optimizer.init(VARIABLES)
    for step in range(steps):
        updates, state = optimizer.update(gradients(step), state, variables)
        variables = optax.apply_updates(variables, updates)
    return variables["adapter"]["w"]


def test_the_first_step_of_b_is_the_ratio_times_that_of_a():
    moved = trained(1)
    decayed = {name: 1e-4 * FACTORS["w"][name] for name in "ab"}
    a = FACTORS["w"]["a"] - moved["a"] - decayed["a"]
    b = FACTORS["w"]["b"] - moved["b"] - 8 * decayed["b"]
    np.testing.assert_allclose(np.abs(a), 1e-3, rtol=1e-3)
    np.testing.assert_allclose(np.abs(b), 8e-3, rtol=1e-3)


@pytest.mark.torch
def test_five_steps_are_those_of_peft():
    torch, peft = pytest.importorskip("torch"), pytest.importorskip("peft")
    from peft.optimizers import create_loraplus_optimizer

    base = torch.nn.Sequential(torch.nn.Linear(6, 5, bias=False))
    model = peft.get_peft_model(base, peft.LoraConfig(r=2, target_modules=["0"]))
    layer = model.base_model.model[0]
    pairs = {"a": layer.lora_A["default"].weight, "b": layer.lora_B["default"].weight}
    for name, parameter in pairs.items():
        parameter.data = torch.tensor(np.array(FACTORS["w"][name]).T.copy())
    optimizer = create_loraplus_optimizer(
        model, torch.optim.AdamW, lr=1e-3, loraplus_lr_ratio=8.0, loraplus_weight_decay=0.1
    )
    for step in range(5):
        for name, parameter in pairs.items():
            gradient = gradients(step)["adapter"]["w"][name]
            parameter.grad = torch.tensor(np.array(gradient).T.copy())
        optimizer.step()
    for name, array in trained(5).items():
        np.testing.assert_allclose(array, pairs[name].detach().numpy().T, rtol=1e-5, atol=1e-6)


def test_a_ratio_below_one_and_labels_without_b_are_refused():
    with pytest.raises(ValueError, match=r"at least 1, not 0\.5"):
        training.lora_plus({"adapter": {"w": {"b": "adapter"}}}, ratio=0.5)
    with pytest.raises(ValueError, match="needs factors b"):
        training.lora_plus({"head": {"b": "head"}})


def test_the_projected_gradient_of_b_comes_nearest_to_that_of_full_fine_tuning():
    """Among all moves A·X of the weight, s·A·(s·∇B') is the nearest to its gradient."""
    params, x = {"w": jnp.zeros((6, 5))}, jnp.ones((2, 6))
    method = lora.LoRAFA(rank=2, alpha=3)
    lifted = lora.lift(lambda p, x: x @ p["w"], params, x, method=method, targets="w")
    full = np.asarray(jax.random.normal(jax.random.key(3), (6, 5)))
    a = np.asarray(FACTORS["w"]["a"])
    plain = {"w": {"a": jnp.zeros((6, 2)), "b": jnp.asarray(method.scale * a.T @ full)}}
    projected = project_gradients(lifted, FACTORS, plain)["w"]["b"]
    nearest = np.linalg.lstsq(a, full, rcond=None)[0]
    np.testing.assert_allclose(method.scale * projected, nearest, rtol=1e-3, atol=1e-4)
