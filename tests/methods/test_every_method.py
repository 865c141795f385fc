"""All methods alike: on every kind of weight the lifted model is the model on W + ΔW."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lora_jax as lora
from tests.golden.case import QUICK

METHODS = {
    "LoRA": lora.LoRA(rank=2, alpha=3),
    "DoRA": lora.DoRA(rank=2, alpha=3),
    "VeRA": lora.VeRA(rank=4),
    "IA3": lora.IA3(),
    "IA3 feedforward": lora.IA3(feedforward=True),
    "LoHa": lora.LoHa(rank=2),
    "LoKr": lora.LoKr(rank=1),
    "AdaLoRA": lora.AdaLoRA(rank=2),
    "LoRAFA": lora.LoRAFA(rank=2),
    "MiSS": lora.MiSS(rank=3),
    "HiRA": lora.HiRA(rank=2),
    "GraLoRA": lora.GraLoRA(rank=2, k=2),
    "Full": lora.Full(),
}
LINEAR_ONLY = {"VeRA", "MiSS", "GraLoRA"}


def scanned(params, x):
    return jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, params["w"])[0]


def convolved(params, x):
    y = jax.lax.conv_general_dilated(
        x, params["w"], (1, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return jnp.tanh(y)


def of_experts(params, x):
    return jax.lax.ragged_dot(x, params["w"], jnp.array([3, 0, 2], jnp.int32))


def looked_up_and_tied(params, x):
    ids = (jnp.abs(x[:, 0]) * 3).astype(int) % 8
    return jnp.tanh(params["w"][ids]) @ params["w"].T


MODELS = {
    "scan": (scanned, (3, 6, 6), (4, 6)),
    "convolution": (convolved, (3, 2, 4, 6), (2, 5, 5, 4)),
    "experts": (of_experts, (3, 4, 6), (5, 4)),
    "embedding": (looked_up_and_tied, (8, 6), (5, 6)),
}


def lift(name, model):
    apply, shape, x_shape = MODELS[model]
    params = {"w": 0.5 * jax.random.normal(jax.random.key(1), shape)}
    x = jax.random.normal(jax.random.key(2), x_shape)
    return (
        apply,
        params,
        x,
        lora.lift(apply, params, x, method=METHODS[name], targets="w", strict=True),
    )


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", METHODS)
def test_it_is_the_model_on_the_changed_weight_and_starts_at_the_base(name, model):
    if name in LINEAR_ONLY and model in ("convolution", "embedding"):
        with pytest.raises(ValueError, match=f"{name} is defined for weights of matrix products"):
            lift(name, model)
        return
    apply, params, x, lifted = lift(name, model)
    start = lifted.init(jax.random.key(3), params)
    moved = jax.tree.map(
        lambda leaf: leaf + 0.3 * jax.random.normal(jax.random.key(leaf.size), leaf.shape), start
    )

    def both(params, factors, x):
        loss = lambda run: jax.value_and_grad(lambda f: jnp.sin(y := run(f)).sum() + 0 * y.sum())
        found = loss(lambda f: lifted(params, f, x))(factors)
        wanted = loss(lambda f: apply(lifted.merge(params, f), x))(factors)
        return found, wanted, lifted(params, start, x), apply(params, x)

    found, wanted, at_start, base = jax.jit(both, compiler_options=QUICK)(params, moved, x)
    np.testing.assert_allclose(at_start, base, rtol=1e-5, atol=1e-5)
    assert not np.allclose(lifted.merge(params, moved)["w"], params["w"])
    for ours, dense in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(ours, dense, rtol=1e-3, atol=1e-4)


BAD = {
    "rank must be an integer of at least 1, not 0": lambda: lora.LoHa(rank=0),
    "alpha must be positive, not 0": lambda: lora.AdaLoRA(alpha=0),
    "dropout must lie in": lambda: lora.HiRA(dropout=1.0),
    "rank 3 is no multiple of k = 2": lambda: lora.GraLoRA(rank=3, k=2),
    "hybrid must be a rank or 0, not -1": lambda: lora.GraLoRA(hybrid=-1),
    "factor must be -1 or at least 1, not 0": lambda: lora.LoKr(factor=0),
    "dtype must be a float type": lambda: lora.Full(dtype=int),
    "2 ranks, but 1 alphas": lambda: lora.LoRA(ranks=(1, 2), alphas=(1.0,)),
    "ids must name at least one token": lambda: lora.TokenRows(ids=(3, 3)),
    "unexpected keyword argument 'rnak'": lambda: lora.LoRA(rnak=8),
}


@pytest.mark.parametrize("sentence", BAD)
def test_a_bad_field_is_named(sentence):
    with pytest.raises((ValueError, TypeError), match=sentence):
        BAD[sentence]()


@pytest.mark.parametrize(
    ("method", "sentence"),
    [
        (lora.MiSS(rank=9), "rank 9: 'w' has 6 inputs"),
        (lora.MiSS(rank=2, mini=4), "mini = 4 does not divide the 6 outputs of 'w'"),
        (lora.GraLoRA(rank=4, k=4), "k = 4 does not divide a side of 'w': 6"),
        (lora.LoRA(ranks=(1, 2)), "2 ranks were given, but 'w' is a stack of 3"),
        (lora.HiRA(rank=7), "rank 7 is larger than 'w' allows"),
        (lora.TokenRows(ids=(1,)), "'w' is no table of rows"),
        (lora.BitFit(), "'w' is no bias: use Full"),
    ],
)
def test_a_weight_that_does_not_fit_is_named_before_anything_is_compiled(method, sentence):
    _, params, x, _ = lift("LoRA", "scan")
    with pytest.raises(ValueError, match=sentence):
        lora.lift(scanned, params, x, method=method, targets="w")


def test_a_layer_of_rank_zero_is_left_alone_and_each_has_its_own_scale():
    _, params, x, _ = lift("LoRA", "scan")
    method = lora.LoRA(ranks=(2, 0, 1), alphas=(4.0, 1.0, 3.0))
    lifted = lora.lift(scanned, params, x, method=method, targets="w", strict=True)
    factors = jax.tree.map(lambda leaf: leaf + 0.5, lifted.init(jax.random.key(0), params))
    a, b = (np.asarray(factors["w"][name]) for name in "ab")
    change = np.asarray(lifted.merge(params, factors)["w"] - params["w"])
    np.testing.assert_allclose(change[0], 2.0 * a[0] @ b[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(change[1], 0)
    np.testing.assert_allclose(change[2], 3.0 * a[2, :, :1] @ b[2, :1], rtol=1e-4, atol=1e-5)


def test_fixed_arrays_get_no_gradient_and_are_not_counted():
    _, params, x, lifted = lift("LoRAFA", "scan")
    factors = jax.tree.map(lambda leaf: leaf + 0.1, lifted.init(jax.random.key(0), params))
    gradient = jax.grad(lambda f: lifted(params, f, x).sum())(factors)
    assert not np.any(gradient["w"]["a"])
    assert np.any(gradient["w"]["b"])
    assert lifted.frozen == ("w/a",)
    assert lifted.sites[0].num_parameters == factors["w"]["b"].size
