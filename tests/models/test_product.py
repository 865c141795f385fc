"""Products of models in bfloat16: operands in bfloat16 and sums in float32, in both passes."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.all import CASES

import lora_jax as lora
from lora_jax.models.product import grouped_product, product

FIXTURES = Path(__file__).parent.parent / "fixtures"
RANK = 11  # no other axis has this size


def products(lowered):
    """Axes and types of left, right and result of each product of a program as traced."""
    tensor = r"tensor<([^>]*)>"
    types = rf"stablehlo\.dot_general[^\n]*?: \({tensor}, {tensor}\) -> {tensor}"
    return [[x.split("x") for x in found] for found in re.findall(types, lowered.as_text())]


def types(found):
    """The types alone."""
    return {tuple(axes[-1] for axes in one) for one in found}


# Of each kind of layer one model: attention with a cache or without, experts, cross-attention.
@pytest.mark.parametrize("kind", [None, "int8"])
@pytest.mark.parametrize("name", ["gpt2", "gemma2", "mixtral", "t5", "roberta"])
def test_both_passes_of_an_adapted_model_multiply_in_bfloat16(name, kind):
    case = CASES[name]
    model = lora.hub.load_model(FIXTURES / name, **(case.options | {"dtype": "bfloat16"}))
    expected = dict(np.load(FIXTURES / name / "expected.npz"))
    args = [expected[key] for key in case.arguments]
    params = model.params if kind is None else lora.quantize(model.params, kind, block=4)
    lifted = lora.lift(
        model.apply,
        params,
        *args,
        method=lora.LoRA(RANK),
        targets=lora.ALL_LINEAR,
        exclude=(".*/router/.*",) if name == "mixtral" else (),  # it has fewer outputs than RANK
        strict=True,
    )
    factors = jax.eval_shape(lifted.init, jax.random.key(0), params)

    def loss(factors, params):
        return jnp.square(lifted(params, factors, *args).astype(jnp.float32)).mean()

    found = products(jax.jit(jax.grad(loss)).lower(factors, params))
    # Those of the factors are thin, with the rank as an axis.
    thick = [one for one in found if not any(str(RANK) in axes for axes in one)]
    assert len(thick) > 15
    assert types(thick) == {("bf16", "bf16", "f32")}


def test_the_gradient_is_that_of_the_cotangent_rounded_to_bfloat16():
    rng = np.random.default_rng(0)
    x, w, c = (rng.normal(size=s).astype(np.float32) for s in ((5, 7), (7, 3), (5, 3)))
    round_ = lambda a: np.asarray(jnp.asarray(a, jnp.bfloat16), np.float64)
    loss = lambda x, w: (product("bi,io->bo", x, w, "bfloat16") * c).sum()
    found = jax.grad(loss, (0, 1))(x, w)
    wanted = round_(c) @ round_(w).T, round_(x).T @ round_(c)
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, round_(b), rtol=2**-7)


def test_grouped_products_round_as_products_do():
    rng = np.random.default_rng(0)
    x, w = (rng.normal(size=s).astype(np.float32) for s in ((5, 7), (2, 7, 3)))
    sizes = jnp.array([2, 3])
    loss = lambda x, w: grouped_product(x, w, sizes, "bfloat16").sum()
    lowered = jax.jit(jax.grad(loss, (0, 1))).lower(x, w)
    assert types(products(lowered)) == {("bf16", "bf16", "f32")}


@pytest.mark.parametrize(("dtype", "total"), [("float16", "f32"), ("float32", "f32")])
def test_other_types_multiply_as_they_are(dtype, total):
    short = {"float16": "f16", "float32": "f32"}[dtype]
    x = jnp.ones((2, 2))
    lowered = jax.jit(lambda x: product("ij,jk->ik", x, x, dtype)).lower(x)
    assert types(products(lowered)) == {(short, short, total)}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("lead", [(), (3,), (2, 3), (0, 3)])
def test_rows_of_any_axes_come_back_in_place(lead, dtype):
    x, w = jnp.ones((*lead, 4)), jnp.ones((4, 5))
    np.testing.assert_array_equal(product("...i,io->...o", x, w, dtype), np.full((*lead, 5), 4))
