"""Our adapters in PEFT itself: nothing missing, nothing unexpected, the same outputs."""

import json
import warnings
from pathlib import Path

import jax
import numpy as np
import pytest
from golden.all import CASES
from golden.case import QUICK, error
from safetensors.numpy import load_file

import lora_jax as lora
from lora_jax import hub

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("default")]

FIXTURES = Path(__file__).parent.parent / "fixtures"


def trained(lifted, params):
    """Factors as after some training: none is zero."""
    factors = lifted.init(jax.random.key(0), params)
    rng = np.random.default_rng(1)
    for site in lifted.sites:
        for name in set(site.arrays) - set(site.frozen):
            array = factors[site.path][name]
            factors[site.path][name] = array + rng.normal(0, 0.3, array.shape).astype(array.dtype)
    return factors


def lift(name, **settings):
    case = CASES[name]
    model = hub.load_model(FIXTURES / name, **case.options)
    inputs = dict(np.load(FIXTURES / name / "expected.npz"))
    args = [inputs[key] for key in case.arguments]
    named = case.keywords(model.config, inputs) | dict(case.settings)
    return model, lora.lift(model.apply, model.params, *args, **named, **settings), args, named


def ours(model, lifted, factors, args, named):
    run = jax.jit(lambda p, f: lifted(p, f, *args, **named), compiler_options=QUICK)
    return np.asarray(run(model.params, factors))


def theirs(name, adapter):
    """What PEFT computes with the adapter, after seeing that it found all and nothing more."""
    peft = pytest.importorskip("peft")
    torch = pytest.importorskip("torch")
    import transformers

    case = CASES[name]
    inputs = dict(np.load(FIXTURES / name / "expected.npz"))
    cls = json.loads((FIXTURES / name / "config.json").read_text())["architectures"][0]
    base = getattr(transformers, cls).from_pretrained(FIXTURES / name, attn_implementation="eager")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = peft.PeftModel.from_pretrained(base, adapter)
    assert not [w for w in caught if "missing adapter keys" in str(w.message)]
    state = load_file(adapter / "adapter_model.safetensors")
    state = {key: torch.tensor(tensor) for key, tensor in state.items()}
    loaded = peft.set_peft_model_state_dict(model, state)
    assert not loaded.unexpected_keys
    names = [key for key in inputs if key not in ("expected", "probe") and ":" not in key]
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


DORA = lora.DoRA(rank=2, alpha=4)
ADAPTERS = {
    "q and v of a fused projection": ("gpt2", {"q_proj": 2, "v_proj": 3}),
    "every linear layer of gpt2": ("gpt2", lora.ALL_LINEAR),
    "llama with rsLoRA": ("llama", {"q_proj": lora.LoRA(rank=2, rs=True)}),
    "head and embedding": ("llama", ("lm_head", "embed", "o_proj")),
    "a rank and alpha for each": (
        "llama",
        {"q_proj": 3, "v_proj": lora.LoRA(rank=2, alpha=3), "up_proj": None},
    ),
    "chosen layers": (
        "llama",
        {"q_proj": lora.LoRA(ranks=(0, 2)), "k_proj": lora.LoRA(ranks=(0, 2))},
    ),
    "a rank for each layer": (
        "gpt2",
        {"q_proj": lora.LoRA(ranks=(2, 0, 1)), "fc1": lora.LoRA(ranks=(2, 2, 2), alphas=(1, 2, 3))},
    ),
    "PiSSA": ("llama", {"q_proj": lora.PiSSA(rank=2, alpha=4)}),
    "bert": ("bert", ("q_proj", "fc2")),
    "bert for classification": ("bert_classification", ("q_proj", "fc2", "embed")),
    "a trained head": (
        "roberta_classification",
        {"q_proj": None, "^head/.*": lora.Full(), "^embed_norm/.*": lora.Full()},
    ),
    "an adapted head": ("roberta_classification", lora.ALL_LINEAR),
    "all biases": ("bert_classification", {"q_proj": None, lora.BIASES: lora.BitFit()}),
    "biases of what is adapted": ("gpt2", {"fc1": None, "^layers/fc1/bias$": lora.BitFit()}),
    "deberta": ("deberta_classification", ("q_proj", "v_proj", "fc1")),
    "t5": ("t5", ("q_proj", "fc2", "o_proj")),
    "encoder of t5": ("t5", ("encoder/layers/q_proj", "decoder/layers/cross/v_proj")),
    "mixtral": ("mixtral", ("q_proj", "gate_proj", "up_proj", "down_proj")),
    "one part of the experts": ("mixtral", ("gate_proj",)),
    "router": ("mixtral", ("down_proj", "router")),
    "qwen3_moe": ("qwen3_moe", lora.ALL_LINEAR),
    "vit": ("vit_classification", ("q_proj", "fc2", "patches")),
    "dora": ("llama", {"q_proj": DORA, "embed": DORA, "lm_head": DORA}),
    "dora of two parts": ("gpt2", {"q_proj": DORA, "v_proj": DORA, "fc1": DORA}),
    "dora of a convolution": ("vit_classification", {"q_proj": DORA, "patches": DORA}),
    "clip": ("clip", ("q_proj", "projection")),
    "image tower of clip": ("clip_vision", ("q_proj", "projection")),
    "image tower of siglip": ("siglip_vision", ("layers/q_proj",)),
    "llava": (
        "llava",
        ("vision/layers/q_proj", "language/layers/v_proj", "projector/fc1", "lm_head"),
    ),
    "qwen2.5-vl": (
        "qwen2_5_vl",
        ("vision/layers/q_proj", "vision/patches", "language/layers/v_proj", "projector/fc1"),
    ),
    "gemma2": ("gemma2", lora.ALL_LINEAR),
    "tied embedding": ("gemma2", ("embed", "q_proj")),
    "tied embedding, trained whole": ("gemma2", {"embed": lora.Full(), "q_proj": None}),
    "rows of tokens": ("gpt2", {"embed": lora.TokenRows(ids=(7, 30, 2)), "fc1": None}),
    "IA3": ("llama", {"k_proj": lora.IA3(), "down_proj": lora.IA3(feedforward=True)}),
    "VeRA": ("llama", {"k_proj": lora.VeRA(rank=4), "v_proj": lora.VeRA(rank=4)}),
    "LoHa": ("llama", {"k_proj": lora.LoHa(rank=2, alpha=3), "up_proj": lora.LoHa(rank=3)}),
    "LoKr": ("llama", {"k_proj": lora.LoKr(rank=2, alpha=3), "up_proj": lora.LoKr(rank=1)}),
    "AdaLoRA": ("llama", {"k_proj": lora.AdaLoRA(rank=3), "up_proj": lora.AdaLoRA(rank=3)}),
}


@pytest.mark.parametrize("title", ADAPTERS)
def test_peft_computes_the_same_with_our_adapter_and_misses_nothing(title, tmp_path):
    name, targets = ADAPTERS[title]
    model, lifted, args, named = lift(name, method=lora.LoRA(rank=2, alpha=4), targets=targets)
    factors = trained(lifted, model.params)
    hub.save_peft(tmp_path, lifted, factors, params=model.params)
    found = masked(name, theirs(name, tmp_path))
    wanted = masked(name, ours(model, lifted, factors, args, named))
    assert error(wanted, found) < 1e-5
