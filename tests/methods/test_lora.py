"""LoRA against its closed form, its initial distributions, dropout, and values it refuses."""

from __future__ import annotations

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lora_jax as lora

X = jax.random.normal(jax.random.key(0), (5, 8))
PARAMS = {"w": jax.random.normal(jax.random.key(1), (8, 6))}


def linear(params, x):
    return x @ params["w"]


def stacked(params, x):
    """Four layers run by a rematerialised scan."""
    layer = jax.checkpoint(lambda x, w: (jnp.tanh(x @ w), None))
    return jax.lax.scan(layer, x, params["w"])[0]


STACKED = {"w": 0.5 * jax.random.normal(jax.random.key(2), (4, 8, 8))}


def lift(f=linear, params=PARAMS, x=X, targets=("w",), **method):
    return lora.lift(f, params, x, method=lora.LoRA(**method), targets=targets)


def trained(lifted, params=PARAMS, seed=3):
    """Factors with both A and B away from zero."""
    factors = lifted.init(jax.random.key(seed), params)
    return jax.tree.map(
        lambda leaf: leaf + 0.2 * jax.random.normal(jax.random.key(leaf.size), leaf.shape), factors
    )


def assert_close(actual, expected, tolerance=1e-6):
    scale = np.linalg.norm(np.asarray(expected))
    error = np.linalg.norm(np.asarray(actual) - np.asarray(expected)) / scale
    assert error < tolerance


# ---------------------------------------------------------------------------------------------
# The formula


def test_the_output_is_x_w_plus_alpha_over_r_x_a_b():
    lifted = lift(rank=3, alpha=12.0)
    factors = trained(lifted)
    a, b = factors["w"]["a"], factors["w"]["b"]
    assert_close(lifted(PARAMS, factors, X), X @ PARAMS["w"] + 12.0 / 3.0 * (X @ a) @ b)


def test_the_gradients_are_those_of_the_formula():
    lifted = lift(rank=3, alpha=12.0)
    factors = trained(lifted)
    a, b = factors["w"]["a"], factors["w"]["b"]
    cotangent = jax.random.normal(jax.random.key(9), (5, 6))
    _, pull = jax.vjp(lambda factors: lifted(PARAMS, factors, X), factors)
    (gradient,) = pull(cotangent)
    assert_close(gradient["w"]["a"], 4.0 * X.T @ (cotangent @ b.T))
    assert_close(gradient["w"]["b"], 4.0 * (X @ a).T @ cotangent)


def test_rslora_scales_by_alpha_over_the_square_root_of_the_rank():
    lifted = lift(rank=4, alpha=12.0, rs=True)
    factors = trained(lifted)
    a, b = factors["w"]["a"], factors["w"]["b"]
    assert_close(lifted(PARAMS, factors, X), X @ PARAMS["w"] + 12.0 / 2.0 * (X @ a) @ b)


def test_the_scale_is_not_rounded_to_the_type_of_the_factors():
    lifted = lift(rank=3, alpha=16.0, dtype=jnp.bfloat16)  # 16/3 is no bf16 number
    factors = {
        "w": {"a": jnp.eye(8, 3, dtype=jnp.bfloat16), "b": jnp.eye(3, 6, dtype=jnp.bfloat16)}
    }
    change = lifted(PARAMS, factors, jnp.eye(8)) - PARAMS["w"]
    assert_close(change, 16.0 / 3.0 * jnp.eye(8, 3) @ jnp.eye(3, 6))


@pytest.mark.parametrize("rs", [False, True], ids=["alpha/r", "alpha/sqrt(r)"])
def test_padding_the_rank_with_zeros_at_the_same_scale_changes_nothing(rs):
    small = lift(rank=2, alpha=6.0, rs=rs)
    large = lift(rank=4, alpha=6.0 * (math.sqrt(2) if rs else 2), rs=rs)
    factors = trained(small)
    a, b = factors["w"]["a"], factors["w"]["b"]
    padded = {"w": {"a": jnp.pad(a, ((0, 0), (0, 2))), "b": jnp.pad(b, ((0, 2), (0, 0)))}}
    assert_close(large(PARAMS, padded, X), small(PARAMS, factors, X))


# ---------------------------------------------------------------------------------------------
# Initial factors


def test_b_starts_at_zero_so_the_model_starts_as_the_base():
    lifted = lift(rank=3)
    factors = lifted.init(jax.random.key(0), PARAMS)
    assert (factors["w"]["b"] == 0).all()
    np.testing.assert_array_equal(lifted(PARAMS, factors, X), linear(PARAMS, X))


def test_a_starts_uniform_with_the_bound_of_kaiming_at_the_square_root_of_five():
    # torch.nn.init.kaiming_uniform_(a=√5): bound = √(6 / ((1 + 5) fan_in)) = 1/√fan_in.
    params, x = {"w": jnp.zeros((400, 300))}, jnp.zeros((2, 400))
    a = lift(params=params, x=x, rank=200).init(jax.random.key(0), params)["w"]["a"]
    bound = 1 / math.sqrt(400)
    assert float(jnp.abs(a).max()) <= bound
    assert_uniform(np.asarray(a).ravel(), -bound, bound)


def assert_uniform(sample, low, high):
    """The largest gap between the empirical and the uniform distribution is that of chance."""
    ranks = (np.sort(sample) - low) / (high - low)
    gap = np.abs(ranks - np.linspace(0, 1, sample.size)).max()
    assert gap < 2.0 / math.sqrt(sample.size)  # Kolmogorov-Smirnov, p < 0.001


def test_gaussian_a_has_standard_deviation_one_over_the_rank():
    params, x = {"w": jnp.zeros((400, 300))}, jnp.zeros((2, 400))
    lifted = lift(params=params, x=x, rank=100, init_a="gaussian")
    a = np.asarray(lifted.init(jax.random.key(0), params)["w"]["a"])
    assert abs(a.mean()) < 4 * 0.01 / math.sqrt(a.size)
    assert abs(a.std() / 0.01 - 1) < 4 / math.sqrt(2 * a.size)


def test_the_fan_in_of_a_stacked_weight_with_two_input_axes_leaves_out_the_stack():
    params = {"w": jnp.zeros((3, 10, 20, 30))}
    x = jnp.zeros((2, 10, 20))
    f = lambda params, x: jnp.einsum("bij,lijo->lbo", x, params["w"])
    lifted = lora.lift(
        lambda params, x: jax.lax.map(lambda w: jnp.einsum("bij,ijo->bo", x, w), params["w"]),
        params,
        x,
        method=lora.LoRA(rank=8),
        targets=("w",),
    )
    factors = lifted.init(jax.random.key(0), params)["w"]
    assert factors["a"].shape == (3, 10, 20, 8)
    assert factors["b"].shape == (3, 8, 30)
    assert_uniform(np.asarray(factors["a"]).ravel(), -1 / math.sqrt(200), 1 / math.sqrt(200))
    assert f(params, x).shape == (3, 2, 30)


def test_an_embedding_starts_with_a_at_zero_and_b_normal_as_peft_does():
    params, ids = {"table": jnp.zeros((500, 400))}, jnp.arange(3)
    lifted = lift(lambda p, ids: p["table"][ids], params, ids, targets=("table",), rank=100)
    factors = lifted.init(jax.random.key(0), params)["table"]
    assert factors["a"].shape == (500, 100)
    assert (factors["a"] == 0).all()
    b = np.asarray(factors["b"])
    assert b.shape == (100, 400)
    assert abs(b.mean()) < 4 / math.sqrt(b.size)
    assert abs(b.std() - 1) < 4 / math.sqrt(2 * b.size)


def test_the_same_key_gives_the_same_factors_and_weights_do_not_share_theirs():
    params = {"v": jnp.zeros((8, 6)), "w": jnp.zeros((8, 6))}
    lifted = lift(lambda p, x: x @ p["w"] + x @ p["v"], params, targets=("v", "w"), rank=3)
    first, again = (lifted.init(jax.random.key(4), params) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert not np.array_equal(first["v"]["a"], first["w"]["a"])


def test_a_weight_starts_the_same_whatever_else_is_adapted():
    params = {"v": jnp.zeros((8, 6)), "w": jnp.zeros((8, 6))}
    f = lambda p, x: x @ p["w"] + x @ p["v"]
    alone = lift(f, params, targets=("w",), rank=3).init(jax.random.key(4), params)
    both = lift(f, params, targets=("v", "w"), rank=3).init(jax.random.key(4), params)
    np.testing.assert_array_equal(alone["w"]["a"], both["w"]["a"])


def test_factors_are_fp32_beside_a_bf16_base_and_merging_rounds_once():
    params = {"w": PARAMS["w"].astype(jnp.bfloat16)}
    lifted = lift(params=params, rank=3)
    factors = trained(lifted, params)
    assert {leaf.dtype for leaf in jax.tree.leaves(factors)} == {jnp.dtype(jnp.float32)}
    a, b = factors["w"]["a"], factors["w"]["b"]
    exact = params["w"].astype(jnp.float32) + 16.0 / 3.0 * a @ b
    merged = lifted.merge(params, factors)["w"]
    assert merged.dtype == jnp.bfloat16
    # One rounding to bf16 of a sum taken in fp32 (half a unit in the last of its 8 digits).
    np.testing.assert_allclose(merged.astype(jnp.float32), exact, rtol=2**-8, atol=1e-6)


# ---------------------------------------------------------------------------------------------
# Dropout


def test_without_a_key_there_is_no_dropout_and_the_model_is_the_merged_one():
    lifted = lift(stacked, STACKED, rank=3, dropout=0.5)
    factors = trained(lifted, STACKED)
    assert_close(lifted(STACKED, factors, X), stacked(lifted.merge(STACKED, factors), X), 1e-5)


def test_the_same_key_drops_the_same_inputs_and_another_key_others():
    lifted = lift(stacked, STACKED, rank=3, dropout=0.5)
    factors = trained(lifted, STACKED)
    run = jax.jit(lambda key: lifted(STACKED, factors, X, rng=key))
    first, again, other = run(jax.random.key(1)), run(jax.random.key(1)), run(jax.random.key(2))
    np.testing.assert_array_equal(first, again)
    assert np.linalg.norm(first - other) > 0.1


def test_rematerialised_layers_draw_the_same_masks_in_the_backward_pass():
    def kept(params, x):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, params["w"])[0]

    lifted = lift(stacked, STACKED, rank=3, dropout=0.5)
    without_remat = lift(kept, STACKED, rank=3, dropout=0.5)
    factors = trained(lifted, STACKED)

    def gradient(lifted):
        loss = lambda factors: jnp.sin(lifted(STACKED, factors, X, rng=jax.random.key(1))).sum()
        return jax.jit(jax.grad(loss))(factors)

    jax.tree.map(assert_close, gradient(lifted), gradient(without_remat))


def test_every_scanned_layer_draws_its_own_mask():
    """Equal layers on equal inputs differ only by what was dropped."""
    params = {"w": jnp.zeros((3, 8, 6))}
    each_layer = lambda p, x: jax.lax.map(lambda w: x @ w, p["w"])
    lifted = lift(each_layer, params, rank=3, dropout=0.5)
    factors = jax.tree.map(
        lambda leaf: jnp.broadcast_to(leaf[:1], leaf.shape), trained(lifted, params)
    )
    first, second, third = lifted(params, factors, X, rng=jax.random.key(0))
    plain = lifted(params, factors, X)
    np.testing.assert_array_equal(plain[0], plain[1])
    assert np.linalg.norm(first - second) > 0.1
    assert np.linalg.norm(second - third) > 0.1


def test_every_use_of_one_weight_draws_its_own_mask():
    params = {"w": jnp.zeros((8, 6))}
    lifted = lift(lambda p, x: (x @ p["w"], x @ p["w"]), params, rank=3, dropout=0.5)
    first, second = lifted(params, trained(lifted, params), X, rng=jax.random.key(0))
    assert np.linalg.norm(first - second) > 0.1


def test_two_weights_draw_different_masks():
    params = {"v": jnp.zeros((8, 6)), "w": jnp.zeros((8, 6))}
    lifted = lift(
        lambda p, x: (x @ p["v"], x @ p["w"]), params, targets=("v", "w"), rank=3, dropout=0.5
    )
    factors = trained(lifted, params)
    factors["v"] = factors["w"]
    first, second = lifted(params, factors, X, rng=jax.random.key(0))
    assert np.linalg.norm(first - second) > 0.1


def test_dropout_zeroes_inputs_at_its_rate_and_scales_the_rest():
    """With A = B = identity the update is the dropped input itself."""
    params = {"w": jnp.zeros((64, 64))}
    x = jnp.ones((200, 64))
    lifted = lift(params=params, x=x, rank=64, alpha=64.0, dropout=0.25)
    factors = {"w": {"a": jnp.eye(64), "b": jnp.eye(64)}}
    dropped = np.asarray(lifted(params, factors, x, rng=jax.random.key(0)))
    zero, scaled = np.isclose(dropped, 0), np.isclose(dropped, 1 / 0.75)
    assert (zero | scaled).all()
    assert abs(zero.mean() - 0.25) < 4 * math.sqrt(0.25 * 0.75 / dropped.size)


def test_dropout_leaves_the_base_path_whole():
    lifted = lift(rank=3, dropout=0.5)
    factors = lifted.init(jax.random.key(0), PARAMS)  # B = 0, so only the base path is left
    np.testing.assert_array_equal(
        lifted(PARAMS, factors, X, rng=jax.random.key(0)), linear(PARAMS, X)
    )


def test_a_use_that_would_lose_its_dropout_is_reported_before_training():
    """Concatenated weights are made dense for dropout; strict lifting says so at once."""
    params = {"k": PARAMS["w"], "q": PARAMS["w"]}

    def fused(params, x):
        return x @ jnp.concatenate([params["q"], params["k"]], axis=1)

    method = lora.LoRA(rank=2, dropout=0.1)
    with pytest.raises(lora.DenseFallbackError, match=r"'q'.*concatenate"):
        lora.lift(fused, params, X, targets=("q", "k"), method=method, strict=True)
    lora.lift(fused, params, X, targets=("q", "k"), method=lora.LoRA(rank=2), strict=True)


# ---------------------------------------------------------------------------------------------
# Bad values


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize("rank", [0, -1, 2.5, "8", True])
def test_a_rank_that_is_no_positive_integer_is_refused(rank):
    with pytest.raises(ValueError, match=f"rank.*{rank}"):
        lora.LoRA(rank=rank)


def test_a_rank_larger_than_the_matrix_is_refused_before_anything_is_made():
    with pytest.raises(ValueError, match=r"rank 7.*'w'.*8.*6"):
        lift(rank=7)
    lift(rank=6)


def test_a_rank_as_large_as_the_fused_input_axes_allow_is_accepted():
    params, x = {"w": jnp.zeros((2, 4, 10))}, jnp.zeros((3, 2, 4))
    f = lambda p, x: jnp.einsum("bhk,hkd->bd", x, p["w"])
    assert lift(f, params, x, rank=8).sites[0].ins == (0, 1)
    with pytest.raises(ValueError, match="rank 9"):
        lift(f, params, x, rank=9)


@pytest.mark.parametrize("alpha", [0, -1.0, float("nan")])
def test_an_alpha_that_is_not_positive_is_refused(alpha):
    with pytest.raises(ValueError, match="alpha"):
        lora.LoRA(alpha=alpha)


@pytest.mark.parametrize("rate", [-0.1, 1.0, 2.0, float("nan")])
def test_a_dropout_rate_outside_zero_to_one_is_refused(rate):
    with pytest.raises(ValueError, match="dropout"):
        lora.LoRA(dropout=rate)


@pytest.mark.usefixtures("without_type_checks")
def test_an_unknown_initialiser_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"kaiming.*gaussian.*'xavier'"):
        lora.LoRA(init_a="xavier")


@pytest.mark.parametrize("dtype", [jnp.int32, bool])
def test_factors_of_a_type_without_gradients_are_refused(dtype):
    with pytest.raises(ValueError, match="dtype"):
        lora.LoRA(dtype=dtype)


def test_the_gradient_of_a_sums_over_rows_with_the_narrow_operand_first():
    """The other way round it takes a CPU several times as long."""
    x = jnp.ones((64, 32))
    params = {"w": jnp.ones((32, 48))}
    lifted = lift(x=x, params=params, rank=4)
    factors = lifted.init(jax.random.key(0), params)
    gradient = jax.jit(jax.grad(lambda factors: jnp.sin(lifted(params, factors, x)).sum()))
    text = gradient.lower(factors).compile().as_text()
    slow = re.findall(r"= f32\[32,4\]\{1,0\} dot\(", text)
    quick = re.findall(r"= f32(?:\[4,32\]\{1,0\}|\[32,4\]\{0,1\}) dot\(", text)  # alike in memory
    assert (len(quick), len(slow)) == (1, 0)
