"""The time of a step on a chip, by hand."""

import dataclasses

import pytest

from lora_jax.analysis.chips import CHIPS
from lora_jax.analysis.collectives import Collective
from lora_jax.analysis.memory import Memory
from lora_jax.analysis.products import Products
from lora_jax.analysis.roofline import bandwidth, roofline

CHIP = dataclasses.replace(
    CHIPS["H100"],
    flops=100.0,
    memory=1000.0,
    memory_bandwidth=10.0,
    link_bandwidth=8.0,
    linked=8,
    network_bandwidth=2.0,
)
NOTHING = Memory(*[0] * 8)


def gathering(devices, nbytes=80):
    return Collective("all-gather", "f32", (nbytes // 4,), nbytes, tuple(devices), times=3)


def test_each_term_is_work_over_speed_and_the_longest_binds():
    sent = [gathering(range(8))]  # 3 x 7/8 x 80 bytes
    found = roofline(CHIP, Products(2000, 150), sent, NOTHING._replace(peak=250))
    assert (found.compute, found.memory, found.interconnect) == (20.0, 15.0, 210 / 8)
    assert (found.bound, found.seconds) == ("interconnect", 26.25)
    assert found.unoverlapped == 20 + 15 + 26.25
    assert found.used == 0.25


@pytest.mark.parametrize(
    ("work", "bound"), [(Products(10_000, 1), "compute"), (Products(1, 10_000), "memory")]
)
def test_without_collectives_only_compute_and_memory_can_bind(work, bound):
    found = roofline(CHIP, work, [], NOTHING)
    assert (found.bound, found.interconnect) == (bound, 0.0)


@pytest.mark.parametrize(
    ("devices", "expected"),
    [
        (range(8), 8.0),  # within one set of fast links
        (range(8, 16), 8.0),
        (range(16), 8.0),  # eight adapters of 2 carry more than the links
        ((0, 1, 8, 9), 4.0),  # two members in each set
        ((0, 8, 16, 24), 2.0),  # one in each
    ],
)
def test_a_ring_that_leaves_the_fast_links_shares_the_network_of_its_members(devices, expected):
    assert bandwidth(CHIP, tuple(devices)) == expected
