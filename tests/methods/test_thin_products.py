"""LoKr takes activations apart instead of forming ΔW, and VeRA scales them instead of a product."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import lora_jax as lora
from tests.golden.case import QUICK
from tests.lifting import programs

IN, OUT, ROWS = 12, 20, 7
X = jax.random.normal(jax.random.key(2), (ROWS, IN))


def by_row(w, x):
    add = lambda y, pair: (y + pair[0][:, None] * pair[1], None)
    return jax.lax.scan(add, jnp.zeros((ROWS, OUT)), (x.T, w))[0]


# Where a view cuts or splits an axis, its parts are products like any other.
VIEWS = {
    "plain": (lambda w, x: x @ w, (IN, OUT)),
    "weight first": (lambda w, x: (w.T @ x.T).T, (IN, OUT)),
    "transposed": (lambda w, x: x @ w.T, (OUT, IN)),
    "a layer of a stack": (lambda w, x: x @ w[1], (2, IN, OUT)),
    "scanned": (lambda w, x: jax.lax.scan(lambda h, a: (h, x @ a), x, w)[1], (2, IN, OUT)),
    "by expert": (lambda w, x: jnp.einsum("ti,eio->eto", x, w), (2, IN, OUT)),
    "rows cut off": (lambda w, x: x[:, :8] @ w[:8], (IN, OUT)),
    "outputs cut off": (lambda w, x: x @ w[:, 3:], (IN, OUT)),
    "a row at a time": (by_row, (IN, OUT)),
    "heads": (lambda w, x: jnp.einsum("ti,ihd->thd", x, w.reshape(IN, 4, 5)), (IN, OUT)),
    "backwards": (lambda w, x: x @ w[::-1], (IN, OUT)),
    "stopped": (lambda w, x: x @ jax.lax.stop_gradient(w), (IN, OUT)),
}
METHODS = {
    "low rank": lora.LoKr(rank=1),
    "whole": lora.LoKr(rank=9),
    "both low": lora.LoKr(rank=1, decompose_both=True),
}
WHOLE = ("plain", "weight first", "transposed", "a layer of a stack", "scanned")


def lift(method, name):
    view, shape = VIEWS[name]
    params = {"w": jax.random.normal(jax.random.key(1), shape)}
    lifted = lora.lift(lambda p, x: view(p["w"], x), params, X, method=method, targets="w")
    start = lifted.init(jax.random.key(3), params)
    draw = lambda leaf: jax.random.normal(jax.random.key(leaf.size), leaf.shape)
    return params, lifted, jax.tree.map(draw, start)


@pytest.mark.parametrize("method", [*METHODS.values(), lora.VeRA(rank=4)], ids=[*METHODS, "VeRA"])
@pytest.mark.parametrize("spec", [P("data", None), P("data", "model")], ids=str)
def test_activations_with_shardings_in_their_types_give_the_same(method, spec):
    params, lifted, factors = lift(method, "plain")
    x = jnp.concatenate([X, X[:1]])
    expected = lifted(params, factors, x)
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Explicit,) * 2)
    with jax.set_mesh(mesh):
        place = lambda tree, spec: jax.device_put(tree, NamedSharding(mesh, spec))
        given = place(params, P()), place(factors, P()), place(x, spec)
        actual = jax.jit(lifted, compiler_options=QUICK)(*given)
        gradients = jax.grad(lambda *given: lifted(*given).sum(), argnums=1)
        found = jax.jit(gradients)(*given)
    np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=1e-4)
    wanted = gradients(params, factors, x)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=2e-5, atol=1e-3), found, wanted)


def gradient(lifted, trained=()):
    """Of a loss, by the factors that are named, or all."""

    def of(factors, params, x):
        def loss(some):
            return jnp.sin(lifted(params, {"w": factors["w"] | some}, x)).sum()

        return jax.grad(loss)({name: factors["w"][name] for name in trained or factors["w"]})

    return of


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_a_split_activation_gives_what_the_formed_weight_does(method, name):
    params, lifted, factors = lift(method, name)
    merged = lifted.merge(params, factors)
    expected = VIEWS[name][0](merged["w"], X)
    actual = jax.jit(lifted, compiler_options=QUICK)(params, factors, X)
    np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=1e-4)


@pytest.mark.parametrize("name", WHOLE)
def test_lokr_forms_nothing_of_the_shape_of_a_weight(name):
    params, lifted, factors = lift(lora.LoKr(rank=1), name)
    made = jax.make_jaxpr(gradient(lifted))(factors, params, X)
    shapes = [
        var.aval.shape[-2:]
        for equation in programs.equations(made)
        if equation.primitive.name in ("dot_general", "add", "add_any", "mul", "reshape")
        for var in equation.outvars
    ]
    assert (ROWS, OUT) in shapes, "the search must find the products it looks for"
    assert not {(IN, OUT), (OUT, IN)} & set(shapes)


def test_the_scales_of_vera_are_no_product_over_a_batch():
    params, lifted, factors = lift(lora.VeRA(rank=5), "plain")
    made = jax.make_jaxpr(gradient(lifted, trained=("d", "g")))(factors, params, X)
    products = [e for e in programs.equations(made) if e.primitive.name == "dot_general"]
    assert len(products) == 4  # x·W, x·A and ·B, and backwards ·Bᵀ
    assert all(e.params["dimension_numbers"][1] == ((), ()) for e in products)
