"""On a mesh of eight devices the lifted model communicates as LoRA written by hand does."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from scripts import bench_lift
from tests.lifting import checks, programs
from tests.lifting.cases.case import Case, inputs, weights


def mesh(types: AxisType = AxisType.Auto) -> Mesh:
    return jax.make_mesh((2, 4), ("fsdp", "tensor"), axis_types=(types, types))


def place(tree: Any, specs: Any) -> Any:
    """Puts a tree on the mesh."""
    shardings = jax.tree.map(
        lambda spec: NamedSharding(mesh(), spec), specs, is_leaf=lambda leaf: isinstance(leaf, P)
    )
    return jax.device_put(tree, shardings)


# ---------------------------------------------------------------------------------------------
# A transformer whose weights are sharded both ways: fsdp x tensor

INTO, OUT_OF = P(None, "fsdp", "tensor"), P(None, "tensor", "fsdp")
LAYERS = {"q": INTO, "k": INTO, "v": INTO, "o": OUT_OF, "up": INTO, "down": OUT_OF}
SPECS = {"embed": P("tensor", "fsdp"), "layers": LAYERS | {"norm": P()}}


def like_the_weights(site: Any) -> dict[str, P]:
    """A factor is sharded as the weight's axes that it holds."""
    spec = LAYERS[site.path.split("/")[-1]]
    batch, ins, outs = ([spec[axis] for axis in axes] for axes in (site.batch, site.ins, site.outs))
    return {"a": P(*batch, *ins, None), "b": P(*batch, None, *outs)}


def replicated(site: Any) -> dict[str, P]:
    return {"a": P(), "b": P()}


class Sharded(NamedTuple):
    """Compiled programs, their arguments on the mesh, and the same on one device."""

    programs: dict[str, Any]
    arguments: tuple[Any, ...]
    on_one_device: tuple[Any, ...]
    gradient: Any


@pytest.fixture(
    scope="module",
    params=[(True, like_the_weights), (True, replicated), (False, like_the_weights)],
    ids=["scanned, factors like weights", "scanned, factors replicated", "unrolled"],
)
def sharded(request):
    scan, factor_specs = request.param
    shape = bench_lift.Shape(
        layers=2, dim=32, hidden=64, heads=4, vocabulary=48, batch=8, length=8, rank=4, scan=scan
    )
    params = bench_lift.init(jax.random.key(0), shape)
    ids = jax.random.randint(jax.random.key(1), (8, 8), 0, 48)
    lifted = bench_lift.lift(params, ids, shape)
    factors = checks.trained_factors(lifted, params)
    specs = {site.path: factor_specs(site) for site in lifted.sites}
    arguments = (place(factors, specs), place(params, SPECS), place(ids, P("fsdp")))
    candidates = bench_lift.contenders(lifted, shape)
    functions = {
        "gradient by hand": candidates["by hand"],
        "gradient lifted": candidates["lifted"],
        "plain": lambda factors, params, ids: bench_lift.apply(params, ids, shape),
        "lifted": lambda factors, params, ids: lifted(params, factors, ids),
    }
    compiled = {
        name: jax.jit(f).lower(*arguments).compile(checks.QUICK) for name, f in functions.items()
    }
    return Sharded(compiled, arguments, (factors, params, ids), candidates["lifted"])


def test_sharded_gradients_equal_those_of_a_single_device(sharded):
    actual = sharded.programs["gradient lifted"](*sharded.arguments)
    expected = checks.jit(sharded.gradient)(*sharded.on_one_device)
    assert checks.relative_error(actual, expected) < 1e-6


def test_collectives_are_those_of_lora_written_by_hand_count_for_count(sharded):
    lifted, by_hand = sharded.programs["gradient lifted"], sharded.programs["gradient by hand"]
    assert programs.collectives(lifted) == programs.collectives(by_hand)
    assert programs.communicated(lifted) == programs.communicated(by_hand)
    assert programs.collectives(lifted).total() > 0


def test_no_weight_is_gathered_that_the_base_model_does_not_gather(sharded):
    lifted, plain = sharded.programs["lifted"], sharded.programs["plain"]
    extra = programs.communicated(lifted) - programs.communicated(plain)
    assert {operation for operation, _ in extra} <= {"all-reduce"}
    assert programs.collectives(lifted) == programs.collectives(plain)


# ---------------------------------------------------------------------------------------------
# Sharding that the model itself asks for

PARAMS = weights(up=(32, 64), down=(64, 32))
X = inputs(8, 32)


def case(apply: Any, targets: tuple[str, ...] = ("up", "down")) -> Case:
    return Case(apply, PARAMS, (X,), targets)


def tensor_parallel_by_hand() -> Case:
    @functools.partial(
        jax.shard_map,
        mesh=mesh(),
        in_specs=(P(None, "tensor"), P("tensor", None), P("fsdp")),
        out_specs=P("fsdp"),
    )
    def perceptron(up, down, x):
        return lax.psum(jax.nn.gelu(x @ up) @ down, "tensor")

    return case(lambda params, x: perceptron(params["up"], params["down"], x))


def fsdp_by_hand() -> Case:
    @functools.partial(
        jax.shard_map,
        mesh=mesh(),
        in_specs=(P("fsdp"), P(None, "fsdp"), P("fsdp")),
        out_specs=P("fsdp"),
    )
    def perceptron(up, down, x):
        up = lax.all_gather(up, "fsdp", axis=0, tiled=True)
        down = lax.all_gather(down, "fsdp", axis=1, tiled=True)
        return jax.nn.gelu(x @ up) @ down

    return case(lambda params, x: perceptron(params["up"], params["down"], x))


def partly_manual() -> Case:
    @functools.partial(
        jax.shard_map,
        mesh=mesh(),
        in_specs=(P(), P("fsdp")),
        out_specs=P("fsdp"),
        axis_names={"fsdp"},
    )
    def product(up, x):
        return x @ up

    # A partly manual map is only defined under jit.
    return case(jax.jit(lambda params, x: product(params["up"], x)), targets=("up",))


def sharding_constraints_on_weights() -> Case:
    def apply(params, x):
        up = lax.with_sharding_constraint(params["up"], NamedSharding(mesh(), P("fsdp", "tensor")))
        return jax.nn.gelu(x @ up) @ params["down"]

    return case(apply)


def jit_with_explicit_shardings_inside() -> Case:
    rows = NamedSharding(mesh(), P("fsdp"))
    columns = NamedSharding(mesh(), P(None, "tensor"))

    @functools.partial(jax.jit, in_shardings=(rows, columns), out_shardings=rows)
    def product(x, w):
        return x @ w

    return case(lambda params, x: jax.nn.gelu(product(x, params["up"])) @ params["down"])


CASES = {
    fn.__name__: fn
    for fn in (
        tensor_parallel_by_hand,
        fsdp_by_hand,
        partly_manual,
        sharding_constraints_on_weights,
        jit_with_explicit_shardings_inside,
    )
}


@pytest.mark.parametrize("name", CASES)
def test_sharding_inside_the_model_keeps_outputs_and_gradients(name):
    case = CASES[name]()
    lifted = checks.lift(case, strict=True)  # and so nothing is made dense
    factors = checks.trained_factors(lifted, case.params)
    actual, expected = checks.lifted_and_dense(lifted, case, factors)
    assert checks.relative_error(actual.outputs, expected.outputs) < 1e-5
    assert checks.relative_error(actual.derivatives, expected.derivatives) < 1e-5


@pytest.mark.parametrize("name", ["tensor_parallel_by_hand", "fsdp_by_hand"])
def test_weights_sharded_by_hand_have_the_roles_of_the_whole_weight(name):
    sites = checks.lift(CASES[name]()).sites
    assert {site.path: (site.shape, site.ins, site.outs) for site in sites} == {
        "up": ((32, 64), (0,), (1,)),
        "down": ((64, 32), (0,), (1,)),
    }


def test_hand_written_fsdp_gathers_the_factors_instead_of_the_update():
    case = fsdp_by_hand()
    lifted = checks.lift(case)
    factors = checks.trained_factors(lifted, case.params)
    compiled = jax.jit(lifted).lower(case.params, factors, X).compile(checks.QUICK)
    gathered = programs.communicated(compiled)
    base = programs.communicated(jax.jit(case.apply).lower(case.params, X).compile(checks.QUICK))
    extra = {array for operation, array in gathered - base if operation == "all-gather"}
    assert extra <= {"f32[32,2]", "f32[2,32]"}


# ---------------------------------------------------------------------------------------------
# Shardings in types


def test_explicitly_typed_shardings_pass_through():
    """With `AxisType.Explicit` a product must say where its result lives."""
    explicit = mesh(AxisType.Explicit)
    specs = {"up": P("fsdp", "tensor"), "down": P("tensor", "fsdp")}

    def model(params, x):
        up = jax.sharding.reshard(params["up"], P(None, "tensor"))
        down = jax.sharding.reshard(params["down"], P("tensor", None))
        hidden = jax.nn.gelu(jnp.dot(x, up, out_sharding=P("fsdp", "tensor")))
        return jnp.dot(hidden, down, out_sharding=P("fsdp", None))

    with jax.set_mesh(explicit):
        params = {
            name: jax.device_put(value, NamedSharding(explicit, specs[name]))
            for name, value in PARAMS.items()
        }
        x = jax.device_put(X, NamedSharding(explicit, P("fsdp")))
        case = Case(model, params, (x,), targets=("up", "down"))
        lifted = checks.lift(case, strict=True)
        factors = checks.trained_factors(lifted, params)
        actual, expected = checks.lifted_and_dense(lifted, case, factors)
        assert checks.relative_error(actual.outputs, expected.outputs) < 1e-5
        assert checks.relative_error(actual.derivatives, expected.derivatives) < 1e-5


def test_the_mesh_has_eight_devices():
    assert np.prod(list(mesh().shape.values())) == 8
