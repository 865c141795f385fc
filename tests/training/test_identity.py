import dataclasses

from lora_jax.training import describe_run
from lora_jax.training.identity import differences


@dataclasses.dataclass(frozen=True)
class Method:
    rank: int = 8
    alpha: float = 16.0


def test_a_run_is_described_by_base_method_targets_and_versions():
    found = describe_run(base="53aa", method=Method(), targets=("q/kernel",), seed=3)
    assert found.pop("versions").keys() >= {"python", "jax", "optax", "orbax-checkpoint", "grain"}
    assert found == {
        "base": "53aa",
        "method": {"name": "Method", "rank": 8, "alpha": 16.0},
        "targets": ["q/kernel"],
        "seed": 3,
    }


def test_equal_descriptions_do_not_differ():
    assert differences(describe_run(base="x"), describe_run(base="x")) == []


def test_tuples_are_the_lists_that_json_makes_of_them():
    assert differences({"targets": ["q", "v"]}, {"targets": ("q", "v")}) == []


def test_every_field_that_differs_is_named():
    found = {"a": 1, "b": {"c": 2, "d": None}, "e": 5}
    asked = {"a": 1, "b": {"c": 3}, "f": 6}
    assert differences(found, asked) == [
        "b.c: found 2, asked for 3",
        "b.d: found None, asked for nothing",
        "e: found 5, asked for nothing",
        "f: found nothing, asked for 6",
    ]
    assert differences(found, asked, ignore=["b", "e", "f"]) == []
