"""Chips: found by name, or by what JAX calls them; their figures agree with one another."""

import pytest

from lora_jax.analysis.chips import CHIPS, chip_of, find_chip


def test_the_six_chips_are_known_by_name_in_any_case():
    assert list(CHIPS) == ["v5e", "v5p", "v6e", "A100", "H100", "H200"]
    assert find_chip("V5P") is CHIPS["v5p"]
    assert find_chip("a100") is CHIPS["A100"]


def test_an_unknown_chip_is_refused_with_the_nearest_one():
    with pytest.raises(ValueError, match=r"unknown chip 'H300'; nearest: H[12]00, H[12]00"):
        find_chip("H300")
    with pytest.raises(ValueError, match="nearest: v5"):
        find_chip("v5-e")


def test_no_device_kind_is_that_of_two_chips():
    kinds = [kind for chip in CHIPS.values() for kind in chip.device_kinds]
    assert len(set(kinds)) == len(kinds)
    for chip in CHIPS.values():
        assert {chip_of(kind) for kind in chip.device_kinds} == {chip}


@pytest.mark.parametrize("chip", CHIPS.values(), ids=CHIPS)
def test_memory_is_faster_than_links_and_links_than_the_network(chip):
    assert chip.flops > chip.memory_bandwidth > chip.link_bandwidth > chip.network_bandwidth > 0
    # All are known to be limited by memory below some hundred operations a byte.
    assert 100 < chip.flops / chip.memory_bandwidth < 600


def test_an_h200_is_an_h100_with_more_and_faster_memory():
    h100, h200 = CHIPS["H100"], CHIPS["H200"]
    assert (h100.flops, h100.link_bandwidth) == (h200.flops, h200.link_bandwidth)
    assert h200.memory > h100.memory
    assert h200.memory_bandwidth > h100.memory_bandwidth
