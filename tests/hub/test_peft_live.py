"""Our adapters in PEFT itself: nothing missing, nothing unexpected, the same outputs."""

import json
import warnings
from pathlib import Path

import jax
import numpy as np
import pytest
from golden.all import CASES
from golden.case import QUICK, error

import lora_jax as lora
from lora_jax import hub

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("default")]

FIXTURES = Path(__file__).parent.parent / "fixtures"


def trained(lifted, params, key=1):
    """Factors as after some training: none is zero."""
    factors = lifted.init(jax.random.key(0), params)
    leaves, tree = jax.tree.flatten(factors)
    keys = jax.random.split(jax.random.key(key), len(leaves))
    moved = [
        x + 0.3 * jax.random.normal(k, x.shape, x.dtype) for x, k in zip(leaves, keys, strict=True)
    ]
    return jax.tree.unflatten(tree, moved)


def lift(name, **settings):
    case = CASES[name]
    model = hub.load_model(FIXTURES / name, **case.options)
    inputs = dict(np.load(FIXTURES / name / "expected.npz"))
    args = [inputs[key] for key in case.arguments]
    named = {ours: inputs[key] for ours, key in case.named.items()} | dict(case.settings)
    return model, lora.lift(model.apply, model.params, *args, **named, **settings), args, named


def ours(model, lifted, factors, args, named):
    run = jax.jit(lambda p, f: lifted(p, f, *args, **named), compiler_options=QUICK)
    return np.asarray(run(model.params, factors))


def theirs(name, adapter, **options):
    """What PEFT computes with the adapter, and its load's missing and unexpected keys."""
    peft = pytest.importorskip("peft")
    torch = pytest.importorskip("torch")
    import transformers

    case = CASES[name]
    inputs = dict(np.load(FIXTURES / name / "expected.npz"))
    cls = json.loads((FIXTURES / name / "config.json").read_text())["architectures"][0]
    base = getattr(transformers, cls).from_pretrained(FIXTURES / name, attn_implementation="eager")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = peft.PeftModel.from_pretrained(base, adapter, **options)
        again = model.load_adapter(adapter, "again", is_trainable=True)
    assert not [w for w in caught if "missing" in str(w.message)], caught
    assert not again.unexpected_keys
    assert not [key for key in again.missing_keys if "again" in key or "lora" in key]
    names = [*case.arguments, *case.named.values()]
    tensors = {key: torch.tensor(inputs[key]) for key in names}
    tensors = {k: t.long() if t.dtype == torch.int32 else t for k, t in tensors.items()}
    with torch.no_grad():
        return getattr(model.eval()(**tensors), case.output).numpy()


def masked(name, output):
    case = CASES[name]
    if case.mask is None:
        return output
    mask = np.load(FIXTURES / name / "expected.npz")[case.mask]
    return output * mask.reshape(*mask.shape, *[1] * (output.ndim - mask.ndim))


LORA = lora.LoRA(rank=2, alpha=4)
ADAPTERS = {
    "q and v of a fused projection": ("gpt2", {"targets": {"q_proj": 2, "v_proj": 3}}),
    "every linear layer of gpt2": ("gpt2", {"targets": lora.ALL_LINEAR}),
    "llama": ("llama", {"targets": ("q_proj", "v_proj", "down_proj"), "rs": True}),
    "llama head and embedding": ("llama", {"targets": ("lm_head", "embed", "o_proj")}),
    "patterns": (
        "llama",
        {"targets": {"q_proj": 3, "v_proj": lora.LoRA(rank=2, alpha=3), "up_proj": None}},
    ),
    "bert": ("bert", {"targets": ("q_proj", "fc2")}),
    "bert classification": ("bert_classification", {"targets": ("q_proj", "fc2", "embed")}),
    "roberta classification": ("roberta_classification", {"targets": lora.ALL_LINEAR}),
    "deberta": ("deberta_classification", {"targets": ("q_proj", "v_proj", "fc1")}),
    "mixtral": ("mixtral", {"targets": ("q_proj", "gate_proj", "up_proj", "down_proj")}),
    "mixtral gates": ("mixtral", {"targets": ("gate_proj",)}),
    "mixtral down": ("mixtral", {"targets": ("down_proj", "router")}),
    "qwen3_moe": ("qwen3_moe", {"targets": lora.ALL_LINEAR}),
    "vit": ("vit_classification", {"targets": ("q_proj", "fc2", "patches")}),
    "dora": ("llama", {"targets": ("q_proj", "embed", "lm_head"), "method": lora.DoRA(rank=2)}),
    "dora fused": ("gpt2", {"targets": ("q_proj", "v_proj", "fc1"), "method": lora.DoRA(rank=2)}),
    "dora vit": (
        "vit_classification",
        {"targets": ("q_proj", "patches"), "method": lora.DoRA(rank=2)},
    ),
    "clip": ("clip", {"targets": ("q_proj", "projection")}),
    "clip_vision": ("clip_vision", {"targets": ("q_proj", "projection")}),
    "siglip_vision": ("siglip_vision", {"targets": ("layers/q_proj",)}),
    "gemma2": ("gemma2", {"targets": lora.ALL_LINEAR}),
}


@pytest.mark.parametrize("title", ADAPTERS)
def test_peft_computes_the_same_with_our_adapter_and_misses_nothing(title, tmp_path):
    name, settings = ADAPTERS[title]
    settings = dict(settings)
    method = settings.pop("method", lora.LoRA(rank=2, alpha=4, rs=settings.pop("rs", False)))
    model, lifted, args, named = lift(name, method=method, **settings)
    factors = trained(lifted, model.params)
    hub.save_peft(tmp_path, lifted, factors, params=model.params)
    found = masked(name, theirs(name, tmp_path))
    wanted = masked(name, ours(model, lifted, factors, args, named))
    assert error(wanted, found) < 1e-5
    again = hub.load_peft(tmp_path, lifted, params=model.params)
    for path, arrays in factors.items():
        for array, value in arrays.items():
            np.testing.assert_allclose(again[path][array], value, rtol=3e-7, err_msg=path)
