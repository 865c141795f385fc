"""PEFT's files: what PEFT made computes the same here, and is written again byte for byte."""

import json
import re

import jax
import numpy as np
import pytest
from golden.all import CASES
from golden.case import QUICK, error
from golden.peft import ADAPTED, FIXTURES
from safetensors.numpy import load_file

from lora_jax import hub
from lora_jax.hub.peft_files import parse_key
from lora_jax.hub.peft_tokens import ROWS


def lift(name):
    """Our model, lifted as an adapter of PEFT's asks for, its factors, and their folder."""
    adapted = ADAPTED[name]
    golden = CASES[adapted.model]
    model = hub.load_model(FIXTURES / adapted.model, **golden.options)
    inputs = dict(np.load(FIXTURES / adapted.model / "expected.npz"))
    args = [inputs[key] for key in golden.arguments]
    named = golden.keywords(model.config, inputs) | dict(golden.settings)
    folder = FIXTURES / "peft" / name / adapted.folder
    lifted, factors = hub.lift_peft(folder, model.apply, model.params, *args, **named)
    run = jax.jit(lambda p, f: lifted(p, f, *args, **named), compiler_options=QUICK)
    return model, lifted, factors, run, folder


def real(name, output):
    """The output where the texts have tokens."""
    golden = CASES[ADAPTED[name].model]
    if golden.mask is None:
        return output
    mask = np.load(FIXTURES / ADAPTED[name].model / "expected.npz")[golden.mask]
    return output * mask.reshape(*mask.shape, *[1] * (output.ndim - mask.ndim))


def is_copy(key):
    """Whether PEFT saves a tensor of the base, or a trained one for the second time."""
    return re.search(r"base_layer\.weight$|\.original_module\.|\.modules_to_save\.", key)


@pytest.mark.filterwarnings("ignore:.*reaches 'add'")  # biases that IA3 scales with their outputs
@pytest.mark.parametrize("name", ADAPTED)
def test_an_adapter_of_peft_computes_what_it_did_there_and_is_written_again_the_same(
    name, tmp_path
):
    model, lifted, factors, run, folder = lift(name)
    expected = np.load(FIXTURES / "peft" / name / "expected.npz")["output"]
    assert error(real(name, run(model.params, factors)), real(name, expected)) < 1e-5
    fields = json.loads((folder / "adapter_config.json").read_text())
    hub.save_peft(tmp_path, lifted, factors, params=model.params, task_type=fields["task_type"])
    saved = load_file(tmp_path / "adapter_model.safetensors")
    before = load_file(folder / "adapter_model.safetensors")
    before = {key: tensor for key, tensor in before.items() if not is_copy(key)}
    assert saved.keys() == before.keys()
    for key, tensor in before.items():
        if parse_key(key).array not in (None, ROWS):
            assert saved[key].tobytes() == tensor.tobytes(), key
        else:  # the base plus what was added to it, which test_peft_whole.py bounds
            np.testing.assert_allclose(saved[key], tensor, rtol=0, atol=1e-7, err_msg=key)
    again = json.loads((tmp_path / "adapter_config.json").read_text())
    for field in ("peft_type", "use_dora", "use_rslora", "bias", "layers_to_transform", "alpha"):
        if field in again:
            assert again[field] == fields[field], field
