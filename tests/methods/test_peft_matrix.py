"""Every method on every family against PEFT: outputs, gradients, 100 steps of AdamW, the merge.

All pairs where torch and PEFT are installed; everywhere some of them, recorded by
scripts/record_peft.py.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import peft_matrix as golden
from golden.all import CASES
from golden.peft_matrix import FAMILIES, METHODS, PAIRS, RECORDED
from safetensors.numpy import load_file

from lora_jax import hub

WEIGHTS = "adapter_model.safetensors"
# What PEFT does not have, and what it says of it.
CONV1D, CONV3D = "Conv1D.* not supported", "Conv3d.* not supported"
REFUSED = {
    "gpt2-loha": CONV1D,
    "gpt2-lokr": CONV1D,
    "gpt2-miss": CONV1D,
    "qwen2_5_vl-convolution_loha": CONV3D,
    "qwen2_5_vl-convolution_lokr": CONV3D,
    "qwen2_5_vl-convolution_adalora": CONV3D,
}
FIELDS = {
    "VeraConfig": {"r": 2},
    "IA3Config": {"feedforward_modules": []},
    "LoHaConfig": {},
    "LoKrConfig": {},
    "AdaLoraConfig": {"total_step": 1},
    "MissConfig": {},
    "GraloraConfig": {"r": 4},
}
NO_CONVOLUTION = ("VeraConfig", "MissConfig", "GraloraConfig")
NOT_SUPPORTED = "not supported|No layers types compatible"
KINDS_REFUSED = [
    *[("vit_classification", "projection", kind, FIELDS[kind]) for kind in NO_CONVOLUTION],
    *[("llama", "embed_tokens", kind, fields) for kind, fields in FIELDS.items()],
]
EXPERTS = {"target_parameters": ["mlp.experts.down_proj"], "target_modules": []}

# Biases that IA³ scales with their outputs have nothing to be contracted with.
pytestmark = pytest.mark.filterwarnings("ignore:.*reaches 'add'")


@pytest.mark.parametrize("pair", RECORDED, ids=str)
def test_it_computes_learns_and_merges_what_peft_did(pair, tmp_path):
    golden.check(pair, golden.read(pair), tmp_path)


@pytest.mark.parametrize("pair", RECORDED, ids=str)
def test_its_files_are_written_again_as_they_were(pair, tmp_path):
    recorded = golden.read(pair)
    model, lifted, factors = golden.lift(pair, recorded, tmp_path)
    zeros = jax.tree.map(jnp.zeros_like, model.params)
    task = json.loads(str(recorded["config"]))["task_type"]
    hub.save_peft(tmp_path / "again", lifted, factors, params=zeros, task_type=task)
    found, wanted = load_file(tmp_path / "again" / WEIGHTS), golden.files(recorded)
    assert found.keys() == wanted.keys()
    for key, tensor in wanted.items():
        np.testing.assert_array_equal(found[key], tensor, err_msg=key)


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


@pytest.mark.torch
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(("model", "module", "kind", "fields"), KINDS_REFUSED)
def test_peft_itself_has_other_methods_for_no_convolution_or_embedding(model, module, kind, fields):
    with pytest.raises((TypeError, ValueError), match=NOT_SUPPORTED):
        golden.adapt(model, {"kind": kind, "target_modules": [module], **fields})


@pytest.mark.torch
@pytest.mark.filterwarnings("default")
def test_peft_itself_has_lora_alone_for_experts():
    with pytest.raises(ValueError, match="does not work with use_dora"):
        golden.adapt("mixtral", {"kind": "LoraConfig", "use_dora": True, **EXPERTS})
    for kind, fields in [*FIELDS.items(), ("HiraConfig", {})]:
        # AdaLoRA's config takes them, its model does not.
        name = "parameter_name" if kind == "AdaLoraConfig" else "target_parameters"
        with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}'"):
            golden.adapt("mixtral", {"kind": kind, **fields, **EXPERTS})


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
