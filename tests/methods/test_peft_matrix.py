"""Every method on every family against PEFT: outputs, gradients, 100 steps of AdamW, the merge.

All pairs where torch and PEFT are installed; everywhere some of them, recorded by
scripts/record_peft.py.
"""

import pytest
from golden import peft_matrix as golden
from golden.all import CASES
from golden.peft_matrix import FAMILIES, METHODS, PAIRS, RECORDED

from lora_jax import hub

# What PEFT does not have, and what it says of it.
ONLY_LINEAR = "Conv1D.*(not supported|is not supported)"
REFUSED = {
    "gpt2-loha": ONLY_LINEAR,
    "gpt2-lokr": ONLY_LINEAR,
    "gpt2-miss": ONLY_LINEAR,
}

# Biases that IA³ scales with their outputs have nothing to be contracted with.
pytestmark = pytest.mark.filterwarnings("ignore:.*reaches 'add'")


@pytest.mark.parametrize("pair", RECORDED, ids=str)
def test_it_computes_learns_and_merges_what_peft_did(pair, tmp_path):
    golden.check(pair, golden.read(pair), tmp_path)


@pytest.mark.torch
@pytest.mark.filterwarnings("default")  # PEFT and transformers warn of each other
@pytest.mark.parametrize("pair", [p for p in PAIRS if str(p) not in REFUSED], ids=str)
def test_it_computes_learns_and_merges_what_peft_does(pair, tmp_path):
    golden.check(pair, golden.record(pair), tmp_path)


@pytest.mark.torch
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("pair", [p for p in PAIRS if str(p) in REFUSED], ids=str)
def test_peft_itself_refuses_the_rest(pair):
    with pytest.raises((TypeError, ValueError), match=REFUSED[str(pair)]):
        golden.record(pair)


def test_every_family_and_every_method_is_recorded():
    assert {pair.family for pair in RECORDED} == set(FAMILIES)
    assert {pair.method for pair in RECORDED} == set(METHODS)
    assert set(RECORDED) <= set(PAIRS)


def test_every_family_of_files_is_in_the_matrix():
    models = {
        hub.load_model(
            golden.FIXTURES / family.model, **CASES[family.model].options
        ).config.model_type
        for family in FAMILIES.values()
    }
    towers = {"clip_vision_model", "siglip_vision_model"}  # halves of CLIP and SigLIP
    assert models | towers | {"gemma3"} == set(hub.families.FAMILIES)


@pytest.mark.parametrize("family", [name for name, one in FAMILIES.items() if not one.biased])
def test_a_family_without_biases_has_none_to_train(family):
    params = hub.load_model(golden.FIXTURES / FAMILIES[family].model).params
    assert not [path for path in golden.by_path(params) if path.endswith("bias")]
