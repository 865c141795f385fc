"""Our adapters in PEFT itself: nothing missing, nothing unexpected, the same outputs."""

import json
import re
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
from lora_jax.methods import drop_ranks

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


def theirs(name, adapter, adapter_name="default"):
    """What PEFT computes with the adapter, and its model.

    Before that it is seen that PEFT found all and nothing more.
    """
    peft = pytest.importorskip("peft")
    torch = pytest.importorskip("torch")
    import transformers

    case = CASES[name]
    inputs = dict(np.load(FIXTURES / name / "expected.npz"))
    cls = json.loads((FIXTURES / name / "config.json").read_text())["architectures"][0]
    base = getattr(transformers, cls).from_pretrained(FIXTURES / name, attn_implementation="eager")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = peft.PeftModel.from_pretrained(base, adapter, adapter_name=adapter_name)
    assert not [w for w in caught if "missing adapter keys" in str(w.message)]
    state = load_file(adapter / "adapter_model.safetensors")
    state = {key: torch.tensor(tensor) for key, tensor in state.items()}
    if model.peft_config[adapter_name].peft_type == "ADALORA":
        model.peft_config[adapter_name].rank_pattern = None  # it was cut when it was loaded
    loaded = peft.set_peft_model_state_dict(model, state, adapter_name=adapter_name)
    assert not loaded.unexpected_keys
    names = [key for key in inputs if key not in ("expected", "probe") and ":" not in key]
    tensors = {key: torch.tensor(inputs[key]) for key in names}
    tensors = {k: t.long() if t.dtype == torch.int32 else t for k, t in tensors.items()}
    with torch.no_grad():
        return getattr(model.eval()(**tensors), case.output).numpy(), model


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
    "AdaLoRA of two parts": ("gpt2", {"q_proj": lora.AdaLoRA(rank=3), "fc1": lora.AdaLoRA(rank=3)}),
    "HiRA": ("llama", {"q_proj": lora.HiRA(2), "embed": lora.HiRA(2), "lm_head": lora.HiRA(2)}),
    "HiRA of two parts": ("gpt2", {"q_proj": lora.HiRA(2), "v_proj": lora.HiRA(2)}),
    "HiRA of a convolution": ("vit_classification", {"patches": lora.HiRA(2)}),
    "HiRA in mistral": ("mistral", {"q_proj": lora.HiRA(2), "down_proj": lora.HiRA(2)}),
    "HiRA in qwen2": ("qwen2", {"v_proj": lora.HiRA(2)}),
    "HiRA in roberta": ("roberta", {"v_proj": lora.HiRA(2), "fc1": lora.HiRA(2)}),
    "HiRA in clip": ("clip", {"q_proj": lora.HiRA(2)}),
    "HiRA in llava": ("llava", {"language/layers/v_proj": lora.HiRA(2)}),
    "MiSS": ("llama", {"q_proj": lora.MiSS(rank=3), "down_proj": lora.MiSS(rank=3)}),
    "MiSS repeated along outputs": ("llama", {"k_proj": lora.MiSS(rank=3, mini=4)}),
    "MiSS of two parts": (
        "qwen2_5_vl",
        {"vision/layers/q_proj": lora.MiSS(rank=3), "vision/layers/v_proj": lora.MiSS(rank=3)},
    ),
    "MiSS beside biases": (
        "bert_classification",
        {"q_proj": lora.MiSS(rank=2), lora.BIASES: lora.BitFit()},
    ),
    "MiSS in deberta": ("deberta_classification", {"q_proj": lora.MiSS(rank=2)}),
    "MiSS in gemma3": ("gemma3", {"q_proj": lora.MiSS(rank=2), "up_proj": lora.MiSS(rank=2)}),
    "MiSS in t5": ("t5", {"q_proj": lora.MiSS(rank=2), "fc2": lora.MiSS(rank=2)}),
    "MiSS in mixtral": ("mixtral", {"o_proj": lora.MiSS(rank=2)}),
    "MiSS in siglip": ("siglip_vision", {"layers/q_proj": lora.MiSS(rank=2)}),
    "GraLoRA": ("llama", {"q_proj": lora.GraLoRA(rank=4), "down_proj": lora.GraLoRA(rank=4)}),
    "GraLoRA of Conv1D": ("gpt2", {"fc1": lora.GraLoRA(rank=4, alpha=6, k=4, hybrid=2)}),
    "GraLoRA in bert": ("bert", {"q_proj": lora.GraLoRA(rank=4), "fc2": lora.GraLoRA(rank=4)}),
    "GraLoRA in qwen3": ("qwen3", {"q_proj": lora.GraLoRA(rank=2)}),
    "GraLoRA in gemma2": ("gemma2", {"o_proj": lora.GraLoRA(rank=2)}),
    "GraLoRA in vit": ("vit_classification", {"v_proj": lora.GraLoRA(rank=2, hybrid=1)}),
    "norms": ("llama", {lora.NORMS: lora.LayerNormTuning()}),
    "norms of gpt2": ("gpt2", {lora.NORMS: lora.LayerNormTuning()}),
    "norms and the head": (
        "roberta_classification",
        {lora.NORMS: lora.LayerNormTuning(), "^head/.*": lora.Full()},
    ),
    "biases alone": ("bert", {"^layers/(q_proj|fc2)/bias$": lora.BitFit()}),
}


@pytest.mark.parametrize("title", ADAPTERS)
def test_peft_computes_the_same_with_our_adapter_and_misses_nothing(title, tmp_path):
    name, targets = ADAPTERS[title]
    model, lifted, args, named = lift(name, method=lora.LoRA(rank=2, alpha=4), targets=targets)
    factors = trained(lifted, model.params)
    hub.save_peft(tmp_path / "ours", lifted, factors, params=model.params)
    output, peft_model = theirs(name, tmp_path / "ours")
    wanted = masked(name, ours(model, lifted, factors, args, named))
    assert error(wanted, masked(name, output)) < 1e-5
    peft_model.save_pretrained(tmp_path / "again")
    assert_same_tensors(tmp_path / "again", tmp_path / "ours")


def assert_same_tensors(again, before):
    """Byte by byte, but for the copies of embeddings and biases that PEFT adds."""
    wanted = load_file(before / "adapter_model.safetensors")
    found = load_file(again / "adapter_model.safetensors")
    copies = re.compile(r"base_layer\.weight$|\.original_module\.|\.modules_to_save\.")
    assert {key for key in found if not copies.search(key)} == wanted.keys()
    for key, tensor in wanted.items():
        assert found[key].tobytes() == tensor.tobytes(), key


@pytest.mark.parametrize(
    ("name", "targets"),
    [
        ("gpt2", {"q_proj": DORA, "embed": lora.TokenRows(ids=(7, 30))}),
        ("gemma2", {"q_proj": None, "embed": lora.Full()}),
        ("bert_classification", {"q_proj": None, lora.BIASES: lora.BitFit()}),
        ("mixtral", {"q_proj": None, "down_proj": None}),
    ],
    ids=["rows of tokens", "trained whole", "biases", "experts"],
)
def test_the_name_that_peft_gives_an_adapter_does_not_matter(name, targets, tmp_path):
    model, lifted, args, named = lift(name, method=lora.LoRA(rank=2, alpha=4), targets=targets)
    factors = trained(lifted, model.params)
    hub.save_peft(tmp_path / "ours", lifted, factors, params=model.params)
    output, peft_model = theirs(name, tmp_path / "ours", adapter_name="mine")
    wanted = masked(name, ours(model, lifted, factors, args, named))
    assert error(wanted, masked(name, output)) < 1e-5
    peft_model.save_pretrained(tmp_path / "again")
    assert_same_tensors(tmp_path / "again" / "mine", tmp_path / "ours")


def test_peft_takes_an_adalora_whose_dropped_ranks_were_cut(tmp_path):
    methods = {"q_proj": lora.AdaLoRA(rank=3), "fc1": lora.AdaLoRA(rank=3)}
    model, lifted, args, named = lift("gpt2", targets=methods)
    factors = trained(lifted, model.params)
    for path, arrays in factors.items():
        kept = jax.random.bernoulli(jax.random.key(len(path)), shape=arrays["e"].shape)
        factors[path] = drop_ranks({path: kept}, {path: arrays})[path]
    hub.save_peft(tmp_path / "ours", lifted, factors, params=model.params)
    fields = json.loads((tmp_path / "ours" / "adapter_config.json").read_text())
    assert 0 < sum(map(sum, fields["rank_pattern"].values())) < 3 * len(fields["rank_pattern"])
    output, peft_model = theirs("gpt2", tmp_path / "ours")
    wanted = masked("gpt2", ours(model, lifted, factors, args, named))
    assert error(wanted, masked("gpt2", output)) < 1e-5
    peft_model.save_pretrained(tmp_path / "again")
    assert_same_tensors(tmp_path / "again", tmp_path / "ours")
