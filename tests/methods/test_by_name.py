"""Methods by name: every method has one, and what is misspelt is answered with the nearest."""

import dataclasses

import pytest

import lora_jax as lora
from lora_jax import methods


def test_every_method_can_be_made_by_its_name():
    exported = {
        name
        for package in (methods, methods.initialisers)
        for name in package.__all__
        if hasattr(getattr(package, name), "delta")
    }
    # What PiSSA and others build on, and what is made of another method.
    assert exported - {"Rebased", "Fused"} == set(methods.METHODS)
    for name, kind in methods.METHODS.items():
        needed = {"ids": (1, 2)} if name == "TokenRows" else {}
        assert type(lora.make_method(name, **needed)) is kind
        assert lora.make_method(name.lower(), **needed) == lora.make_method(name, **needed)


def test_without_a_name_it_is_lora_with_the_given_fields():
    assert lora.make_method(rank=4, alpha=2.0) == lora.LoRA(rank=4, alpha=2.0)
    assert lora.make_method("lora-fa", rank=4) == lora.LoRAFA(rank=4)
    assert lora.make_method("lora_ga", rank=4) == lora.LoRAGA(rank=4)
    assert dataclasses.asdict(lora.make_method("PiSSA", rank=4))["rank"] == 4


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("dorra", {}, "unknown method 'dorra'; nearest: 'DoRA'; known: LoRA, DoRA"),
        ("DoRA", {"rnak": 4}, "DoRA has no field 'rnak'; nearest: 'rank'; known: rank, alpha"),
        ("IA3", {"rank": 4}, "IA3 has no field 'rank'"),
        ("LoRA", {"rank": 0}, "rank must be an integer of at least 1, not 0"),
    ],
)
def test_an_unknown_method_or_field_is_answered_with_the_nearest(name, fields, message):
    with pytest.raises(ValueError, match=message):
        lora.make_method(name, **fields)
