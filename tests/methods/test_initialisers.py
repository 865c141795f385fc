"""Where LoRA starts: the base is untouched, starts hold what they promise, bad input is refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.case import QUICK

import lora_jax as lora
from lora_jax.methods.initialisers import ranks_by_variance, redistribute_ranks

KEY = jax.random.key(0)
PARAMS = {
    "table": jax.random.normal(jax.random.key(1), (11, 6)),
    "layers": 0.5 * jax.random.normal(jax.random.key(2), (3, 6, 6)),
    "out": jax.random.normal(jax.random.key(3), (6, 5)),
}
IDS = jax.random.randint(jax.random.key(4), (4, 7), 0, 11)
MASK = jnp.array([[1] * n + [0] * (7 - n) for n in (7, 3, 5, 1)])
TARGETS = ("layers", "out")


def model(params, ids):
    """A table, three rematerialised layers in a scan, and an output."""
    x = params["table"][ids]
    layer = jax.checkpoint(lambda x, w: (x + jnp.tanh(x @ w), None))
    return jax.lax.scan(layer, x, params["layers"])[0] @ params["out"]


def loss(params, ids):
    return jnp.square(model(params, ids)).mean()


def quick(f, *args):
    return jax.jit(f, compiler_options=QUICK)(*args)


def lift(method, targets=TARGETS):
    return lora.lift(model, PARAMS, IDS, method=method, targets=targets)


@pytest.fixture(scope="module")
def inputs():
    return lora.gather_inputs(lift(lora.LoRA(2)), PARAMS, [(IDS,)])


@pytest.fixture(scope="module")
def gradients():
    return lora.gather_gradients(lift(lora.LoRA(2)), PARAMS, [(IDS,)], loss)


STARTS = [
    lora.PiSSA(2, 3.0),
    lora.PiSSA(2, 3.0, iterations=2),
    lora.OLoRA(2, 3.0),
    lora.CorDA(2, 3.0),
    lora.LoRAGA(2, 3.0),
    lora.LoRAGA(2, 3.0, direction="random"),
    lora.EVA(2, 3.0),
    lora.EVA(2, 3.0, whiten=True),
    lora.Orthogonal(2, 3.0),
]


def started(method, inputs, gradients, targets=TARGETS):
    gathered = {"gather_inputs": inputs, "gather_gradients": gradients}
    gathered = gathered.get(getattr(method, "starts_from", None))
    lifted = lift(method, targets)
    return lifted, quick(lifted.init, KEY, PARAMS, gathered)


@pytest.mark.parametrize("method", STARTS, ids=str)
def test_the_adapted_model_starts_as_the_base(method, inputs, gradients):
    lifted, factors = started(method, inputs, gradients)
    found, base = lifted(PARAMS, factors, IDS), model(PARAMS, IDS)
    if isinstance(method, lora.Orthogonal):  # A·B cancels to rounding
        np.testing.assert_allclose(found, base, atol=1e-5)
    else:
        np.testing.assert_array_equal(found, base)
    assert max(float(jnp.abs(factors["layers"][name]).max()) for name in ("a", "b")) > 0.01


def test_a_start_taken_off_trains_as_if_the_base_had_given_it_up():
    """As PiSSA is written: W − s·A₀·B₀ is frozen, and A and B train from A₀ and B₀."""
    lifted, factors = started(lora.PiSSA(2, 3.0), None, None)
    moved = jax.tree.map(lambda x: x, factors)
    for arrays in moved.values():
        for name in ("a", "b"):
            arrays[name] = arrays[name] + 0.1 * jax.random.normal(KEY, arrays[name].shape)

    def as_written(factors):
        left = {
            path: PARAMS[path] - 1.5 * arrays["a0"] @ arrays["b0"]
            for path, arrays in factors.items()
        }
        plain = {path: {k: arrays[k] for k in "ab"} for path, arrays in factors.items()}
        return loss_of(lift(lora.LoRA(2, 3.0)), PARAMS | left, plain)

    def loss_of(lifted, params, factors):
        return jnp.square(lifted(params, factors, IDS)).mean()

    both = lambda f: (loss_of(lifted, PARAMS, f), as_written(f))
    ours, theirs = quick(both, moved)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    gradients = lambda f: (
        jax.grad(lambda f: loss_of(lifted, PARAMS, f))(f),
        jax.grad(as_written)(f),
    )
    mine, wanted = quick(gradients, moved)
    for path in mine:
        for name in ("a", "b"):
            np.testing.assert_allclose(mine[path][name], wanted[path][name], rtol=1e-3, atol=1e-5)
        assert not mine[path]["a0"].any()
    assert set(lifted.frozen) == {f"{p}/{n}" for p in TARGETS for n in ("a0", "b0")}


@pytest.mark.parametrize(
    "method", [lora.PiSSA(2, 3.0), lora.OLoRA(2, 3.0, rs=True)], ids=["PiSSA", "rs-OLoRA"]
)
def test_a_start_taken_off_is_a_plain_lora_of_twice_the_rank_on_the_untouched_base(method):
    lifted = lift(method)
    factors = jax.tree.map(lambda x: x + 0.1, started(method, None, None)[1])
    plain, same = lora.to_lora(lifted, factors)
    assert {type(site.method) for site in plain.sites} == {lora.LoRA}
    assert {site.method.rank for site in plain.sites} == {4}
    np.testing.assert_allclose(
        plain(PARAMS, same, IDS), lifted(PARAMS, factors, IDS), rtol=1e-4, atol=1e-5
    )


def test_layers_with_ranks_and_alphas_of_their_own_start_from_as_many_triples():
    ranks, alphas = (2, 0, 1), (3.0, 1.0, 5.0)
    lifted = lift(lora.PiSSA(ranks=ranks, alphas=alphas), "layers")
    arrays = lifted.init(KEY, PARAMS)["layers"]
    for layer, (rank, alpha) in enumerate(zip(ranks, alphas, strict=True)):
        u, s, vt = np.linalg.svd(PARAMS["layers"][layer])
        nearest = (u[:, :rank] * s[:rank]) @ vt[:rank]
        found = alpha / max(rank, 1) * arrays["a"][layer] @ arrays["b"][layer]
        np.testing.assert_allclose(found, nearest, atol=1e-5)
    np.testing.assert_array_equal(lifted(PARAMS, {"layers": arrays}, IDS), model(PARAMS, IDS))


def test_kernels_and_experts_start_from_triples_of_their_matrices():
    kernel = {"w": jax.random.normal(KEY, (3, 2, 4, 5))}  # convolves 3 x 2 windows of 4 channels
    image = jax.random.normal(jax.random.key(1), (1, 6, 6, 4))
    numbers = ("NHWC", "HWIO", "NHWC")
    conv = lambda p, x: jax.lax.conv_general_dilated(
        x, p["w"], (1, 1), "SAME", dimension_numbers=numbers
    )
    experts = {"w": jax.random.normal(KEY, (3, 4, 5))}
    rows, sizes = jax.random.normal(KEY, (7, 4)), jnp.array([2, 4, 1])
    grouped = lambda p, x: jax.lax.ragged_dot(x, p["w"], sizes)
    for f, params, x, shape in (
        (conv, kernel, image, (24, 5)),
        (grouped, experts, rows, (3, 4, 5)),
    ):
        lifted = lora.lift(f, params, x, method=lora.PiSSA(2), targets="w", strict=True)
        arrays = quick(lifted.init, KEY, params)["w"]
        u, s, vt = np.linalg.svd(params["w"].reshape(shape), full_matrices=False)
        nearest = (u[..., :2] * s[..., None, :2]) @ vt[..., :2, :]
        a, b = arrays["a"], arrays["b"]
        found = 8.0 * a.reshape(*shape[:-1], 2) @ b
        np.testing.assert_allclose(found, nearest, atol=1e-4)
        np.testing.assert_array_equal(lifted(params, {"w": arrays}, x), f(params, x))


def test_orthogonal_factors_meet_in_no_direction():
    arrays = started(lora.Orthogonal(4), None, None, "layers")[1]["layers"]
    np.testing.assert_allclose(arrays["a"] @ arrays["b"], np.zeros((3, 6, 6)), atol=1e-7)
    for name, size in (("a", 6), ("b", 6)):
        # Half the directions, each of squared length about size / 100.
        assert 0.3 < float(jnp.square(arrays[name]).sum()) / (3 * 2 * size / 100) < 3


# ---------------------------------------------------------------------------------------------
# What is gathered


def true_inputs(ids):
    """What each layer and the output are multiplied with, [rows, 6] each."""
    x, seen = PARAMS["table"][ids], []
    for w in PARAMS["layers"]:
        seen.append(np.asarray(x).reshape(-1, 6))
        x = x + jnp.tanh(x @ w)
    return seen, np.asarray(x).reshape(-1, 6)


def test_moments_are_those_of_the_inputs_of_every_layer_over_all_batches():
    batches = [(IDS[:1],), (IDS[1:],)]
    found = lora.gather_inputs(lift(lora.LoRA(2)), PARAMS, batches)
    layers, out = true_inputs(IDS)
    assert found["out"].batches == 2
    assert (found["layers"].rows == 28).all()
    for layer, x in enumerate(layers):
        np.testing.assert_allclose(found["layers"].first[layer], x.sum(0), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(found["layers"].second[layer], x.T @ x, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found["out"].second, out.T @ out, rtol=1e-4, atol=1e-4)


def test_layers_that_are_taken_one_by_one_give_the_moments_of_scanned_ones():
    def unrolled(params, ids):
        x = params["table"][ids]
        for i in range(3):
            x = x + jnp.tanh(x @ params["layers"][i])
        return x @ params["out"]

    lifted = lora.lift(unrolled, PARAMS, IDS, method=lora.LoRA(2), targets="layers")
    found = lora.gather_inputs(lifted, PARAMS, [(IDS,)])["layers"]
    layers, _ = true_inputs(IDS)
    for layer, x in enumerate(layers):
        np.testing.assert_allclose(found.second[layer], x.T @ x, rtol=1e-4, atol=1e-4)
    assert (found.rows == 28).all()


def test_masked_rows_do_not_count_and_each_batch_may_be_divided_by_its_largest_value():
    masked = {"mask": lambda ids: (ids >= 0) * MASK, "normalise": True}
    found = lora.gather_inputs(lift(lora.LoRA(2)), PARAMS, [(IDS,)], **masked)
    _, out = true_inputs(IDS)
    real = out[np.asarray(MASK).ravel() == 1]
    assert found["out"].rows == 16
    np.testing.assert_allclose(found["out"].first, real.sum(0) / real.max(), rtol=1e-4, atol=1e-4)


def test_a_weight_used_twice_gathers_the_inputs_of_both_uses():
    f = lambda p, x: jnp.tanh(x @ p["w"]) @ p["w"]
    w, x = PARAMS["layers"][0], PARAMS["table"]
    lifted = lora.lift(f, {"w": w}, x, method=lora.LoRA(2), targets="w")
    found = lora.gather_inputs(lifted, {"w": w}, [(x,)])["w"]
    second = np.tanh(x @ w)
    np.testing.assert_allclose(found.second, x.T @ x + second.T @ second, rtol=1e-4, atol=1e-4)


def test_a_quantised_base_gathers_the_inputs_of_its_dequantised_weights():
    exact = {"w": 0.1 * jax.random.normal(KEY, (2, 64, 64))}
    quantized, x = lora.quantize(exact), jax.random.normal(KEY, (3, 64))
    f = lambda p, x: jax.lax.scan(lambda h, w: (h + jnp.tanh(h @ w), None), x, p["w"])[0]
    lifted = lora.lift(f, exact, x, method=lora.EVA(4), targets="w")
    dense = {"w": quantized["w"].dequantize()}
    found, wanted = (lora.gather_inputs(lifted, base, [(x,)])["w"] for base in (quantized, dense))
    np.testing.assert_allclose(found.second, wanted.second, atol=1e-5)


def test_gradients_are_those_of_the_weights_averaged_over_batches():
    batches = [(IDS[:2],), (IDS[2:],)]
    found = lora.gather_gradients(lift(lora.LoRA(2)), PARAMS, batches, loss)
    wanted = [jax.grad(loss)(PARAMS, *batch) for batch in batches]
    assert set(found) == set(TARGETS)
    for path in TARGETS:
        mean = (wanted[0][path] + wanted[1][path]) / 2
        np.testing.assert_allclose(found[path], mean, rtol=1e-5, atol=1e-7)


def test_inputs_that_no_product_sees_are_an_error_naming_the_weight():
    lifted = lift(lora.EVA(2), ("table",))
    with pytest.raises(ValueError, match=r"'table' were not seen.*gather"):
        lora.gather_inputs(lifted, PARAMS, [(IDS,)])


# ---------------------------------------------------------------------------------------------
# Ranks


def test_ranks_follow_the_variance_of_the_inputs_and_keep_their_sum_and_scale(inputs):
    lifted = lift(lora.EVA(2, 3.0))
    ranks = ranks_by_variance(lifted, inputs, rho=2.0)
    assert sum(map(sum, ranks.values())) == 2 * 4
    assert max(map(max, ranks.values())) <= 4
    assert ranks_by_variance(lifted, inputs, rho=1.0) == {"layers": (2, 2, 2), "out": (2,)}

    # Inputs along one direction alone deserve one rank; the others share what is left.
    flat = inputs["out"]._replace(first=jnp.zeros(6), second=jnp.diag(jnp.arange(6) == 0.0) * 28.0)
    new = redistribute_ranks(lifted, inputs | {"out": flat})
    chosen = {site.path: site.method for site in new.sites}
    assert chosen["out"].rank == 1
    assert sum(chosen["layers"].ranks) == 7
    scales = chosen["layers"].layer_scales(3)
    np.testing.assert_allclose(scales[scales > 0], 1.5)
    factors = new.init(KEY, PARAMS, inputs)
    np.testing.assert_array_equal(new(PARAMS, factors, IDS), model(PARAMS, IDS))


# ---------------------------------------------------------------------------------------------
# What is refused


def test_starting_from_data_without_data_is_refused_with_the_function_that_gathers_it():
    for method in (lora.EVA(2), lora.CorDA(2), lora.LoRAGA(2)):
        with pytest.raises(ValueError, match=f"none for 'layers'.*{method.starts_from}"):
            lift(method).init(KEY, PARAMS)
    with pytest.raises(ValueError, match="no batches"):
        lora.gather_inputs(lift(lora.EVA(2)), PARAMS, [])


def test_a_start_from_w_is_refused_on_a_quantised_base():
    wide = {"w": jax.random.normal(KEY, (64, 8))}
    quantized = lora.quantize(wide)
    lifted = lora.lift(
        lambda p, x: x @ p["w"], wide, jnp.ones((1, 64)), method=lora.PiSSA(2), targets="w"
    )
    with pytest.raises(ValueError, match="PiSSA starts from the exact weight, and 'w' is quant"):
        lifted.init(KEY, quantized)
    with pytest.raises(ValueError, match=r"gradients of 'w'.*not at quantised"):
        lora.gather_gradients(lifted, quantized, [()], lambda p: 0.0)


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        (lora.PiSSA, {"iterations": -1}, "iterations.*-1"),
        (lora.CorDA, {"mode": "both"}, "'ipm' or 'kpm', not 'both'"),
        (lora.CorDA, {"mode": "kpm", "ranks": (1, 2)}, "one rank for all layers"),
        (lora.LoRAGA, {"direction": "BrAr"}, "direction.*'BrAr'"),
        (lora.LoRAGA, {"scaling": "large"}, "scaling.*'large'"),
        (lora.LoRAGA, {"gamma": 0.0}, "gamma.*0.0"),
        (lora.LoRAGA, {"ranks": (1, 2)}, "one rank for all layers"),
        (lora.Orthogonal, {"rank": 3}, "even rank, not 3"),
        (lora.Orthogonal, {"ranks": (2, 4)}, "one rank for all layers"),
    ],
)
def test_values_out_of_range_are_refused(method, options, message):
    with pytest.raises(ValueError, match=message):
        method(**options)


def test_twice_the_rank_of_lora_ga_must_fit_the_weight():
    with pytest.raises(ValueError, match=r"at most 2 for 'out' \(6 x 5\), not 3"):
        lift(lora.LoRAGA(3))


def test_starts_are_methods_like_any_other():
    """Their rank can be set for each target, and they can be replaced field by field."""
    lifted = lift(lora.PiSSA(2), {"layers": 1, "out": lora.OLoRA(3)})
    assert [site.method.rank for site in lifted.sites] == [1, 3]
    assert dataclasses.replace(lora.CorDA(2), mode="kpm").mode == "kpm"
    assert "PiSSA(rank=1" in str(lifted)
