"""Matrix products of compiled programs, by hand."""

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from lora_jax.analysis.hlo import parse
from lora_jax.analysis.products import Products, products
from lora_jax.reports.plan import matmul_flops


def shape(*sizes, dtype="float32", sharding=None):
    return jax.ShapeDtypeStruct(sizes, dtype, sharding=sharding)


def lower(f, *shapes):
    return jax.jit(f).lower(*shapes)


def test_a_product_multiplies_and_adds_and_reads_and_writes_once():
    program = parse(lower(jnp.matmul, shape(4, 8), shape(8, 2)).as_text(dialect="hlo"))
    assert products(program) == Products(2 * 4 * 8 * 2, 4 * (4 * 8 + 8 * 2 + 4 * 2))


def test_bfloat16_operands_are_half_as_many_bytes():
    f = lambda x, y: jnp.matmul(x, y, preferred_element_type="float32")
    halves = shape(4, 8, dtype="bfloat16"), shape(8, 2, dtype="bfloat16")
    program = parse(lower(f, *halves).as_text(dialect="hlo"))
    assert products(program).nbytes == 2 * (4 * 8 + 8 * 2) + 4 * 4 * 2


def test_a_scanned_gradient_has_the_operations_of_its_jaxpr():
    def loss(weights, x):
        layer = jax.checkpoint(lambda x, w: (jnp.tanh(x @ w), None))
        return jax.lax.scan(layer, x, weights)[0].sum()

    arguments = shape(6, 8, 8), shape(4, 8)
    expected = matmul_flops(jax.make_jaxpr(jax.grad(loss))(*arguments).jaxpr)
    assert expected == 6 * 4 * 2 * 4 * 8 * 8  # forward, again, and two of the derivative
    before = lower(jax.grad(loss), *arguments)
    assert products(parse(before.as_text(dialect="hlo"))).flops == expected
    assert products(parse(before.compile().as_text())).flops == expected


def test_a_split_product_takes_each_device_its_part():
    mesh = jax.make_mesh((8,), ("x",), (jax.sharding.AxisType.Auto,))
    x = shape(16, 8, sharding=NamedSharding(mesh, P("x")))
    y = shape(8, 2, sharding=NamedSharding(mesh, P()))
    program = parse(lower(jnp.matmul, x, y).compile().as_text())
    assert products(program).flops == 2 * 16 * 8 * 2 / 8


def test_a_convolution_sums_over_its_window_and_inputs():
    f = lambda x, w: jax.lax.conv_general_dilated(
        x, w, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    program = parse(lower(f, shape(2, 5, 5, 3), shape(3, 3, 3, 7)).as_text(dialect="hlo"))
    assert products(program).flops == 2 * (2 * 3 * 3 * 7) * (3 * 3 * 3)
