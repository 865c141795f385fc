"""Quantised weights on a mesh of eight devices: split as the weight is, equal results."""

import jax
import jax.numpy as jnp
import pytest
from golden.case import QUICK, error
from jax.sharding import NamedSharding, PartitionSpec

import lora_jax as lora
from lora_jax.quantization import packed_shardings, quantize_array
from lora_jax.training.sharding import make_mesh, variable_shardings

RULES = (
    ("params/up", PartitionSpec(None, "fsdp", "tensor")),
    ("params/down", PartitionSpec(None, "tensor", "fsdp")),
)


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def model(params, x):
    layer = lambda x, own: (x + jnp.tanh(x @ own["up"]) @ own["down"], None)
    return jax.lax.scan(layer, x, params)[0]


def test_sharded_results_and_gradients_are_those_of_one_device():
    mesh = make_mesh({"data": 1, "fsdp": 4, "tensor": 2})
    weights = {"up": normal(0, 2, 256, 512) / 16, "down": normal(1, 2, 512, 256) / 16}
    params = {name: quantize_array(w) for name, w in weights.items()}
    x = normal(2, 8, 256)
    lifted = lora.lift(model, params, x, targets=("up", "down"), method=lora.LoRA(2), strict=True)
    factors = {
        site.path: {
            name: normal(i, *array.shape) / 10
            for i, (name, array) in enumerate(site.arrays.items())
        }
        for site in lifted.sites
    }
    variables = {"params": params, "adapter": factors}
    placed = jax.device_put(variables, variable_shardings(mesh, variables, RULES, lifted.sites))

    codes = placed["params"]["up"].codes
    assert codes.sharding.spec == PartitionSpec(None, "fsdp", "tensor")
    assert codes.addressable_shards[0].data.size == codes.size // 8
    scales = placed["params"]["up"].scales
    assert scales.addressable_shards[0].data.size == scales.size // 8

    loss = lambda variables, x: lifted(variables["params"], variables["adapter"], x).var()
    f = lambda adapter, params, x: loss({"params": params, "adapter": adapter}, x)
    run = jax.jit(jax.value_and_grad(f), compiler_options=QUICK)
    sharded_x = jax.device_put(x, NamedSharding(mesh, PartitionSpec("fsdp")))
    value, gradient = run(placed["adapter"], placed["params"], sharded_x)
    wanted, wanted_gradient = run(factors, params, x)
    assert error(value, wanted) < 1e-5
    for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(wanted_gradient), strict=True):
        assert error(a, b) < 1e-4


def test_an_axis_that_the_mesh_does_not_divide_in_blocks_is_not_split():
    mesh = make_mesh({"data": 1, "fsdp": 8, "tensor": 1})
    weight = jax.eval_shape(lambda: quantize_array(jnp.ones((3, 64, 16))))
    places = packed_shardings(weight, NamedSharding(mesh, PartitionSpec(None, "fsdp")))
    assert places.codes.spec == PartitionSpec(None, "fsdp", None)  # 32 rows of bytes
    assert places.scales.spec == PartitionSpec(None, None, None)  # one row of scales
    assert places.groups.spec == PartitionSpec(None)


def test_a_rule_that_does_not_fit_a_quantised_weight_names_its_dense_shape():
    mesh = make_mesh({"data": 1, "fsdp": 8, "tensor": 1})
    variables = {"params": {"up": quantize_array(jnp.ones((64, 12)))}}
    with pytest.raises(ValueError, match=r"params/up has shape \(64, 12\): axis 1"):
        variable_shardings(mesh, variables, [("params/up", PartitionSpec(None, "fsdp"))])
