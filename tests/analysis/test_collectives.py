"""Collectives of programs that are built of known ones."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from lora_jax.analysis.collectives import Traffic, collectives, largest, traffic
from lora_jax.analysis.hlo import parse

SHAPE = (8, 16)  # on each device
NBYTES = 8 * 16 * 4


def program(f, sizes=(8,), names=("x",)):
    """Compiles `f` for arrays of `SHAPE` on each device of a mesh."""
    mesh = jax.make_mesh(sizes, names, (jax.sharding.AxisType.Auto,) * len(names))
    mapped = jax.shard_map(f, mesh=mesh, in_specs=P(names), out_specs=P(names), check_vma=False)
    whole = jax.ShapeDtypeStruct((mesh.size * SHAPE[0], *SHAPE[1:]), "float32")
    return parse(jax.jit(mapped).lower(whole).compile().as_text())


def test_a_sum_over_devices_sends_twice_what_a_gathering_does():
    (found,) = traffic(collectives(program(lambda x: jax.lax.psum(x, "x"))))
    assert found == Traffic("all-reduce", 1, NBYTES, 2 * 7 / 8 * NBYTES)


def test_a_gathering_handles_the_whole_array():
    gather = lambda x: x + jax.lax.all_gather(x, "x").sum(0)
    found = collectives(program(gather))
    assert traffic(found) == [Traffic("all-gather", 1, 8 * NBYTES, 7 * NBYTES)]
    assert largest(found).devices == tuple(range(8))


def test_a_scattered_sum_handles_the_array_before_it_is_scattered():
    scatter = lambda x: x + jax.lax.psum_scatter(x, "x", scatter_dimension=0, tiled=True)
    assert traffic(collectives(program(scatter))) == [
        Traffic("reduce-scatter", 1, NBYTES, 7 / 8 * NBYTES)
    ]


def test_a_transposition_over_devices_keeps_one_part_at_home():
    turn = lambda x: jax.lax.all_to_all(x, "x", split_axis=0, concat_axis=0, tiled=True)
    assert traffic(collectives(program(turn))) == [Traffic("all-to-all", 1, NBYTES, 7 / 8 * NBYTES)]


def test_a_permutation_sends_an_array_once():
    shift = lambda x: jax.lax.ppermute(x, "x", [(i, (i + 1) % 8) for i in range(8)])
    assert traffic(collectives(program(shift))) == [
        Traffic("collective-permute", 1, NBYTES, NBYTES)
    ]


def test_a_collective_in_a_loop_counts_as_often_as_the_loop_runs():
    def f(x):
        return jax.lax.scan(lambda x, _: (jnp.tanh(jax.lax.psum(x, "x")), None), x, length=5)[0]

    (found,) = collectives(program(f))
    assert found.times == 5
    assert found.sent == 5 * 2 * 7 / 8 * NBYTES


@pytest.mark.parametrize(
    ("axes", "devices"),
    [
        (("c",), (0, 1)),
        (("b",), (0, 2)),
        (("a",), (0, 4)),
        (("a", "c"), (0, 1, 4, 5)),
        (("a", "b"), (0, 2, 4, 6)),
    ],
)
def test_the_group_is_that_of_the_first_device_of_the_mesh(axes, devices):
    (found,) = collectives(program(lambda x: jax.lax.psum(x, axes), (2, 2, 2), ("a", "b", "c")))
    assert tuple(sorted(found.devices)) == devices
    assert found.sent == 2 * (len(devices) - 1) / len(devices) * NBYTES


def test_a_group_of_one_device_sends_nothing():
    assert collectives(program(lambda x: jax.lax.psum(x, "b"), (8, 1), ("a", "b"))) == []


@pytest.mark.parametrize(
    ("written", "devices"),
    [
        ("{{0,1},{2,3}}", (0, 1)),
        ("[2,4]<=[8]", (0, 1, 2, 3)),
        ("[4,2]<=[4,2]T(1,0)", (0, 2)),
        ("[4,2]<=[2,2,2]T(0,2,1)", (0, 2)),
        ("[2,4]<=[2,2,2]T(1,0,2)", (0, 1, 4, 5)),
        ("mesh['x'=2,'y'=1,'z'=4] {'z'}", (0, 1, 2, 3)),
        ("mesh['x'=2,'y'=4], device_ids=([2,2,2]T(1,0,2)) {'y'}", (0, 1, 4, 5)),
        ("mesh['x'=4,'y'=2], device_ids=([2,4]T(1,0)) {'x'}", (0, 1, 2, 3)),
    ],
)
def test_every_way_to_write_a_group_is_read(written, devices):
    (found,) = collectives(parse(gathering(written)))
    assert sorted(found.devices) == sorted(devices)


def gathering(groups, opcode="all-gather", kind="f32[8,16]{1,0}"):
    return (
        "ENTRY main {\n  x = f32[2,16]{1,0} parameter(0)\n"
        f"  ROOT y = {kind} {opcode}(x), channel_id=1, replica_groups={groups}, dimensions={{0}}\n"
        "}\n"
    )


def test_an_asynchronous_collective_counts_once_and_by_what_it_makes():
    kind = "(f32[2,16]{1,0}, f32[8,16]{1,0})"
    text = gathering("{{0,1,2,3}}", "all-gather-start", kind).replace("ROOT ", "")
    text = text.replace("}\n}", "}\n  ROOT z = f32[8,16]{1,0} all-gather-done(y)\n}")
    assert traffic(collectives(parse(text))) == [Traffic("all-gather", 1, NBYTES, 3 / 4 * NBYTES)]


def test_a_collective_without_devices_is_not_guessed_at():
    text = gathering("{{0,1}}").replace("replica_groups", "groups_of")
    with pytest.raises(ValueError, match="a collective names no devices"):
        collectives(parse(text))
