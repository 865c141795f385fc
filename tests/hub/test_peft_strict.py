"""Adapters in PEFT's files: what we write is what we read, and what does not fit is refused."""

import collections
import dataclasses
import itertools
import json
import math
import shutil

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from golden.all import CASES
from golden.peft import ADAPTED, FIXTURES
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import lora_jax as lora
from lora_jax import hub, models
from lora_jax.hub.names import Names, Stored
from lora_jax.hub.peft_types import FIELDS, check_types
from lora_jax.methods import drop_ranks

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
Q0 = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
IDS = np.arange(10).reshape(2, 5)
LORA = lora.LoRA(rank=2, alpha=4)
LLAMA = hub.load_model(FIXTURES / "llama")


def lift(model=LLAMA, targets=("q_proj", "v_proj"), method=LORA):
    return lora.lift(model.apply, model.params, IDS, targets=targets, method=method)


def trained(lifted, params):
    """Factors as after some training: none is zero."""
    factors = lifted.init(jax.random.key(0), params)
    leaves, tree = jax.tree.flatten(factors)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noise = [jax.random.normal(k, x.shape, x.dtype) for k, x in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(tree, [x + n for x, n in zip(leaves, noise, strict=True)])


LIFTED = lift()
FACTORS = trained(LIFTED, LLAMA.params)


@pytest.fixture
def saved(tmp_path):
    return hub.save_peft(tmp_path / "adapter", LIFTED, FACTORS, params=LLAMA.params)


def rewrite(directory, change):
    """Changes the tensors of an adapter; the remarks in its header are lost, as PEFT loses them."""
    tensors = change(load_file(directory / WEIGHTS))
    save_file(tensors, directory / WEIGHTS, {"format": "pt"})


def reconfigure(directory, **fields):
    file = directory / CONFIG
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def assert_same(found, wanted):
    assert found.keys() == wanted.keys()
    for path, arrays in wanted.items():
        for name, array in arrays.items():
            assert found[path][name].dtype == array.dtype, path
            assert np.asarray(found[path][name]).tobytes() == np.asarray(array).tobytes(), path


ROUND_TRIPS = {
    "fused, of two ranks and one scale": (
        "gpt2",
        {"q_proj": lora.LoRA(rank=2, alpha=4), "v_proj": lora.LoRA(rank=3, alpha=6)},
    ),
    "experts of which one part is adapted": ("mixtral", {"up_proj": None, "down_proj": 3}),
    "a rank for each layer": ("llama", {"q_proj": lora.LoRA(ranks=(0, 3)), "k_proj": None}),
    "rank-stabilised": ("llama", {"q_proj": lora.LoRA(rank=3, alpha=5, rs=True)}),
    "DoRA in half precision": ("gpt2", {"k_proj": lora.DoRA(rank=2, dtype=jnp.bfloat16)}),
    "a convolution": ("vit_classification", {"patches": None}),
    "LoHa": ("llama", {"q_proj": lora.LoHa(rank=2)}),
    "IA3": ("gpt2", {"q_proj": lora.IA3(), "fc2": lora.IA3(feedforward=True)}),
    "VeRA": ("llama", {"q_proj": lora.VeRA(rank=4)}),
    "HiRA of two parts": ("gpt2", {"q_proj": lora.HiRA(2), "v_proj": lora.HiRA(2)}),
    "MiSS": ("llama", {"q_proj": lora.MiSS(rank=3)}),
    "MiSS repeated along outputs": ("llama", {"q_proj": lora.MiSS(rank=3, mini=4)}),
    "GraLoRA beside a plain pair": ("gpt2", {"fc1": lora.GraLoRA(rank=4, alpha=6, k=4, hybrid=2)}),
    "biases alone": ("llama_biased", {"^layers/(q_proj|fc2)/bias$": lora.BitFit()}),
}


@pytest.mark.filterwarnings("ignore:.*reaches 'add'")
@pytest.mark.parametrize("title", ROUND_TRIPS)
def test_factors_come_back_bit_for_bit(title, tmp_path):
    name, targets = ROUND_TRIPS[title]
    model = hub.load_model(FIXTURES / name)
    ids = np.load(FIXTURES / name / "expected.npz").get("pixel_values", IDS)
    lifted = lora.lift(model.apply, model.params, ids, targets=targets, method=LORA)
    factors = trained(lifted, model.params)
    factors = _without_padding(lifted, factors)
    hub.save_peft(tmp_path, lifted, factors, params=model.params)
    assert_same(hub.load_peft(tmp_path, lifted, params=model.params), factors)
    again, found = hub.lift_peft(tmp_path, model.apply, model.params, ids)
    assert [site.path for site in again.sites] == [site.path for site in lifted.sites]
    assert_same(found, factors)


def _without_padding(lifted, factors):
    """Zeros where a layer has a smaller rank than the stack: nothing there is used or saved."""
    for site in lifted.sites:
        for layer, rank in enumerate(getattr(site.method, "ranks", None) or ()):
            a, b = factors[site.path]["a"], factors[site.path]["b"]
            a, b = a.at[layer, ..., rank:].set(0), b.at[layer, ..., rank:, :].set(0)
            factors[site.path] = {"a": a, "b": b}
    return factors


def test_a_stack_of_one_layer_is_saved_whether_it_is_scanned_or_not(tmp_path):
    config = dataclasses.replace(LLAMA.config, layers=1, scan=False)
    params = LLAMA.params | {"layers": jax.tree.map(lambda x: x[:1], LLAMA.params["layers"])}
    unrolled, scanned = (
        lora.lift(models.build(one).apply, params, IDS, targets="q_proj", method=LORA)
        for one in (config, dataclasses.replace(config, scan=True))
    )
    factors = trained(unrolled, params)
    hub.save_peft(tmp_path, unrolled, factors, params=params)
    assert_same(hub.load_peft(tmp_path, scanned, params=params), factors)


def test_parts_of_different_scale_are_joined_with_the_ratio_in_b(tmp_path):
    model = hub.load_model(FIXTURES / "gpt2")
    lifted = lift(model, {"q_proj": lora.LoRA(rank=2, alpha=4), "v_proj": lora.LoRA(3, alpha=4)})
    factors = trained(lifted, model.params)
    hub.save_peft(tmp_path, lifted, factors)
    found = hub.load_peft(tmp_path, lifted)
    for path, arrays in factors.items():
        for name, array in arrays.items():
            np.testing.assert_allclose(found[path][name], array, rtol=2e-7)


def test_an_adapter_of_the_whole_fused_weight_loads_into_its_parts_only_if_all_are_there():
    model = hub.load_model(FIXTURES / "gpt2")
    two = lift(model, ("q_proj", "v_proj"))
    with pytest.raises(ValueError, match="also changes 'layers/k_proj/kernel'"):
        hub.load_peft(FIXTURES / "peft" / "fused", two)


def test_a_start_that_is_taken_off_is_saved_as_plain_lora_of_twice_the_rank(tmp_path):
    lifted = lift(targets="q_proj", method=lora.PiSSA(rank=2, alpha=4))
    factors = trained(lifted, LLAMA.params)
    hub.save_peft(tmp_path, lifted, factors, params=LLAMA.params)
    plain, found = hub.lift_peft(tmp_path, LLAMA.apply, LLAMA.params, IDS)
    assert plain.sites[0].method.rank == 4
    merged, wanted = plain.merge(LLAMA.params, found), lifted.merge(LLAMA.params, factors)
    kernel = lambda params: params["layers"]["q_proj"]["kernel"]
    np.testing.assert_allclose(kernel(merged), kernel(wanted), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match=r"load it into LoRA\(rank=4\)"):
        hub.load_peft(tmp_path, lifted)


def test_the_files_say_which_base_they_are_for(saved):
    with safe_open(saved / WEIGHTS, "numpy") as file:
        metadata = file.metadata()
    assert metadata["format"] == "pt"
    assert json.loads(metadata["lora_jax"])["base"] == hub.hash_params(LLAMA.params)


def test_an_adapter_for_another_base_is_refused(saved):
    other = jax.tree.map(lambda x: x + 1, LLAMA.params)
    with pytest.raises(ValueError, match="made for another base: for params with hash"):
        hub.load_peft(saved, LIFTED, params=other)


def test_an_adapter_for_a_base_of_other_sizes_is_refused(saved):
    rewrite(saved, lambda t: t | {Q0: np.zeros((2, 24), np.float32)})
    with pytest.raises(ValueError, match=r"\(2, 24\), but \(2, 16\) fits .* another base or rank"):
        hub.load_peft(saved, LIFTED)


def test_transposed_factors_are_refused(saved):
    rewrite(saved, lambda t: t | {Q0: np.ascontiguousarray(t[Q0].T)})
    with pytest.raises(ValueError, match="it is transposed"):
        hub.load_peft(saved, LIFTED)


def test_an_adapter_of_a_quantised_base_is_for_the_base_too(tmp_path):
    params = lora.quantize(LLAMA.params, "int8", block=8)
    lifted = lora.lift(LLAMA.apply, params, IDS, targets="q_proj", method=LORA)
    factors = trained(lifted, LLAMA.params)
    hub.save_peft(tmp_path, lifted, factors, params=params)
    assert_same(hub.load_peft(tmp_path, lift(targets="q_proj"), params=LLAMA.params), factors)


def test_old_spellings_of_modules_are_understood(tmp_path):
    source = FIXTURES / "peft" / "convolution"
    shutil.copytree(source, tmp_path / "old")
    model = hub.load_model(FIXTURES / "vit_classification")
    images = np.load(FIXTURES / "vit_classification" / "expected.npz")["pixel_values"]
    lifted, factors = hub.lift_peft(source, model.apply, model.params, images)
    old = (
        ("vit.layers.", "vit.encoder.layer."),
        (".attention.q_proj.", ".attention.attention.query."),
    )
    for new, before in old:
        rewrite(tmp_path / "old", lambda t, n=new, b=before: {k.replace(n, b): t[k] for k in t})
    assert any("query" in key for key in load_file(tmp_path / "old" / WEIGHTS))
    assert_same(hub.load_peft(tmp_path / "old", lifted), factors)


def test_missing_and_unexpected_tensors_are_counted_and_named(saved):
    rewrite(saved, lambda t: {k.replace("0.self_attn.q_proj", "0.mlp.up_proj"): t[k] for k in t})
    with pytest.raises(
        ValueError,
        match=r"6 of its 8 tensors match; 2 missing: .*q_proj.*; 2 unexpected: .*up_proj",
    ):
        hub.load_peft(saved, LIFTED)


def test_an_adapter_of_which_nothing_matches_is_an_error(saved):
    rewrite(saved, lambda t: {k.replace("self_attn", "attention"): t[k] for k in t})
    with pytest.raises(ValueError, match="no tensor matches; 8 missing"):
        hub.load_peft(saved, LIFTED)
    with pytest.raises(ValueError, match="not for this model, which has no module for"):
        hub.lift_peft(saved, LLAMA.apply, LLAMA.params, IDS)


@pytest.mark.parametrize("name", ["roberta_classification", "vit_classification"])
def test_an_adapter_with_a_head_says_that_the_model_was_loaded_without(name, tmp_path):
    head = {"head": "classification"}
    model = hub.load_model(FIXTURES / name, **head)
    recorded = np.load(FIXTURES / name / "expected.npz")
    args = [recorded["pixel_values"]] if "pixel_values" in recorded else [IDS, np.ones_like(IDS)]
    targets = {"q_proj": None, "^head/.*": lora.Full()}
    lifted = lora.lift(model.apply, model.params, *args, targets=targets)
    factors = lifted.init(jax.random.key(0), model.params)
    hub.save_peft(tmp_path, lifted, factors, params=model.params)
    bare = hub.load_model(FIXTURES / name)
    with pytest.raises(ValueError, match=r"no module for .*classifier.* takes head="):
        hub.lift_peft(tmp_path, bare.apply, bare.params, *args)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (lora.LoRA(rank=3, alpha=4), "rank 2, but the lift has rank 3"),
        (lora.LoRA(rank=2, alpha=8), "scales ΔW by 2, but the method of .* by 4"),
        (lora.DoRA(rank=2, alpha=4), "8 of its 8 tensors match; 4 missing: .*magnitude"),
        (lora.VeRA(rank=2), "holds LORA, but the lift is VERA"),
        (lora.MiSS(rank=2), "holds LORA, but the lift is MISS"),
    ],
    ids=["rank", "alpha", "DoRA", "VeRA", "MiSS"],
)
def test_a_lift_of_another_method_rank_or_alpha_is_refused(saved, method, message):
    with pytest.raises(ValueError, match=message):
        hub.load_peft(saved, lift(method=method))


def test_dora_is_not_loaded_as_lora(tmp_path):
    dora = lift(method=lora.DoRA(rank=2, alpha=4))
    hub.save_peft(tmp_path, dora, trained(dora, LLAMA.params))
    with pytest.raises(ValueError, match=r"4 unexpected: .*lora_magnitude_vector"):
        hub.load_peft(tmp_path, LIFTED)


def test_names_of_adapters_in_keys_are_passed_over(saved):
    rewrite(saved, lambda t: {k.replace(".weight", ".default.weight"): t[k] for k in t})
    assert_same(hub.load_peft(saved, LIFTED), FACTORS)


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16])
def test_half_precision_is_read_into_the_type_of_the_method(saved, dtype):
    rewrite(saved, lambda t: {k: x.astype(dtype) for k, x in t.items()})
    found = hub.load_peft(saved, LIFTED)
    rounded = jax.tree.map(lambda x: np.asarray(x).astype(dtype).astype(np.float32), FACTORS)
    assert_same(found, rounded)


def test_empty_truncated_and_missing_files_and_pickles_are_refused(saved, tmp_path):
    whole = (saved / WEIGHTS).read_bytes()
    for content in (b"", whole[:4], whole[: len(whole) // 2]):
        (saved / WEIGHTS).write_bytes(content)
        with pytest.raises(ValueError, match="not a whole safetensors file"):
            hub.load_peft(saved, LIFTED)
    save_file({}, saved / WEIGHTS)
    with pytest.raises(ValueError, match="holds no tensors"):
        hub.load_peft(saved, LIFTED)
    (saved / WEIGHTS).rename(saved / "adapter_model.bin")
    with pytest.raises(ValueError, match=r"as pickle .* can run any code"):
        hub.load_peft(saved, LIFTED)
    with pytest.raises(FileNotFoundError, match="no directory"):
        hub.load_peft(tmp_path / "nowhere", LIFTED)
    shutil.copytree(FIXTURES / "peft" / "multi_adapter", tmp_path / "many")
    with pytest.raises(FileNotFoundError, match="its sub-folders other hold adapters"):
        hub.load_peft(tmp_path / "many", LIFTED)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"peft_type": "PREFIX_TUNING"}, "peft_type 'PREFIX_TUNING'; supported: ADALORA, BEFT"),
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens, that is aLoRA, .* only the"),
        ({"init_lora_weights": "pissa_niter_4"}, "took that start off .*conversion="),
        ({"init_lora_weights": "OLoRA"}, "took that start off its base"),
        ({"layer_replication": [[0, 2]]}, "asks for layer_replication, that is layers .* once"),
        ({"lora_alpha": 8}, "scales ΔW by 4, but"),
        ({"use_rslora": True}, "scales ΔW by 2.8"),
        ({"rank_pattern": {"v_proj": 4}}, "another base or rank"),
    ],
)
def test_a_config_that_means_something_else_is_refused(saved, fields, message):
    reconfigure(saved, **fields)
    with pytest.raises(ValueError, match=message):
        hub.load_peft(saved, LIFTED)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"r": "2"}, "r = '2'; it must be a whole number from 1 to"),
        ({"r": True}, "r = True; it must be a whole number from 1 to"),
        ({"r": 10**30}, "r = 1000000000000000000000000000000; it must be a whole number"),
        ({"r": 2**20}, r"makes the rank of .*q_proj 1048576, but .* has shape \(2, 16\)"),
        ({"lora_alpha": math.nan}, "lora_alpha = nan; it must be a number above 0"),
        ({"rank_pattern": {"v_proj": 0}}, r"rank_pattern = \{'v_proj': 0\}; it must be"),
        ({"alpha_pattern": {"(": 1}}, r"alpha_pattern = \{'\(': 1\}; .* regular expression"),
        ({"target_modules": 7}, "target_modules = 7; it must be a text or a list of texts"),
        ({"peft_type": ["LORA"]}, r"peft_type = \['LORA'\]; it must be a text"),
        ({"use_rslora": "false"}, "use_rslora = 'false'; it must be true or false"),
    ],
)
def test_a_field_that_holds_what_it_cannot_is_named(saved, fields, message):
    reconfigure(saved, **fields)
    with pytest.raises(ValueError, match=rf"adapter_config\.json (has )?{message}"):
        hub.load_peft(saved, LIFTED)


ODD = (
    *(7, -1, 0, 2.5, 10**30, -(10**30), math.nan, math.inf, True, False, "", "x", "(", "a\0b"),
    *([], [1], [-1], [None], ["a"], [[]], [True], {}, {"a": 1}, {"(": 1}, {"a": "b"}, {"a": None}),
    *({"q_proj": 10**9}, {"q_proj": [1]}, {"q_proj": [True, False]}, {"": {}}),
)


def test_every_field_that_holds_what_it_cannot_is_named():
    refused = collections.Counter()
    for name, value in itertools.product(FIELDS, ODD):
        try:
            check_types({"peft_type": "LORA", name: value}, CONFIG)
        except ValueError as error:
            refused[str(error).split(" = ")[0]] += 1
    assert refused.keys() == {f"{CONFIG} has {name}" for name in FIELDS}
    assert min(refused.values()) > len(ODD) / 3


@pytest.mark.parametrize("adapter", ["adalora_cut", "vera", "gralora_hybrid"])
def test_whatever_a_field_may_hold_is_read_or_refused(adapter, tmp_path):
    shutil.copytree(FIXTURES / "peft" / adapter, tmp_path / "odd")
    before = json.loads((tmp_path / "odd" / CONFIG).read_text())
    model = hub.load_model(FIXTURES / ADAPTED[adapter].model)
    ways = collections.Counter()
    for name in sorted(FIELDS & before.keys()):
        for value in (None, 7, "x", {"": 1}, [1]):
            (tmp_path / "odd" / CONFIG).write_text(json.dumps(before | {name: value}))
            try:
                hub.load_peft_config(tmp_path / "odd", model.apply, model.params)
                ways["read"] += 1
            except ValueError as error:
                ways["named" if f"{CONFIG} " in str(error) else "refused"] += 1
    assert ways["read"] > 5
    assert ways["named"] > 5


@pytest.mark.filterwarnings("ignore:.*reaches 'add'")
@pytest.mark.parametrize(
    "adapter", ["adalora_cut", "bias_lora_only", "dora", "hira", "ia3", "ln_tuning", "vera"]
)
def test_a_tensor_of_any_other_shape_is_refused(adapter, tmp_path):
    source = FIXTURES / "peft" / adapter
    model = hub.load_model(
        FIXTURES / ADAPTED[adapter].model, **CASES[ADAPTED[adapter].model].options
    )
    lifted, _ = hub.lift_peft(source, model.apply, model.params, IDS)
    tensors = load_file(source / WEIGHTS)
    shutil.copytree(source, tmp_path / "odd")
    own = [key for key in tensors if ".base_layer.weight" not in key]  # which is the base's
    kinds = {key.replace(".weight", "").rpartition(".")[2]: key for key in own}
    for key, shape in itertools.product(kinds.values(), [(), (1,), (1, 1), (2, 3, 4)]):
        if shape != tensors[key].shape:
            rewrite(tmp_path / "odd", lambda t, k=key, s=shape: tensors | {k: np.ones(s, "f")})
            with pytest.raises(ValueError, match="shape"):
                hub.load_peft(tmp_path / "odd", lifted, params=model.params)


@pytest.mark.parametrize(
    "remarks",
    [
        {"base": 7},
        {"sites": {"layers/q_proj/kernel": 3}},
        {"sites": {"layers/q_proj/kernel": {"ranks": [2, "2"], "scales": [1, 1]}}},
        {"sites": {"layers/q_proj/kernel": {"ranks": [2, 2], "scales": [math.inf, 1]}}},
        {"sites": ["layers/q_proj/kernel"]},
    ],
    ids=str,
)
def test_remarks_in_the_header_that_we_never_wrote_are_refused(saved, remarks):
    tensors = load_file(saved / WEIGHTS)
    save_file(tensors, saved / WEIGHTS, {"format": "pt", "lora_jax": json.dumps(remarks)})
    with pytest.raises(ValueError, match=r"adapter_model\.safetensors has remarks of lora_jax"):
        hub.load_peft_config(saved, LLAMA.apply, LLAMA.params)


def test_a_field_that_is_null_has_the_default_of_peft(saved):
    reconfigure(saved, r=None, lora_alpha=16)  # PEFT's rank is 8, and the file has 2
    with pytest.raises(ValueError, match=r"shape \(2, 16\), but \(8, 16\) fits"):
        hub.load_peft(saved, LIFTED)


def test_tensors_that_are_no_floats_are_refused(saved):
    rewrite(saved, lambda t: t | {Q0: t[Q0].astype(np.int8)})
    with pytest.raises(ValueError, match=r"q_proj.lora_A.weight' in .* is I8, not one of BF16"):
        hub.load_peft(saved, LIFTED)


def test_a_missing_or_broken_config_is_named(saved):
    (saved / CONFIG).write_text("{")
    with pytest.raises(ValueError, match=r"adapter_config\.json is not JSON"):
        hub.load_peft(saved, LIFTED)
    (saved / CONFIG).unlink()
    with pytest.raises(FileNotFoundError, match=r"has no adapter_config\.json"):
        hub.load_peft(saved, LIFTED)
    with pytest.raises(FileNotFoundError, match=r"no directory .*; near it: adapter"):
        hub.load_peft(saved.parent / "adaptor", LIFTED)
    with pytest.raises(FileNotFoundError, match="is a file: give the directory"):
        hub.load_peft(saved / WEIGHTS, LIFTED)


def test_a_tied_embedding_whose_head_was_left_alone_is_refused(tmp_path):
    source = FIXTURES / "peft" / "target_embedding_tied"
    shutil.copytree(source, tmp_path / "untied")
    rewrite(tmp_path / "untied", lambda t: {k: x for k, x in t.items() if "lm_head" not in k})
    model = hub.load_model(FIXTURES / "gemma2")
    with pytest.raises(ValueError, match="but not lm_head, which is tied to it here"):
        hub.lift_peft(tmp_path / "untied", model.apply, model.params, IDS)


def test_an_adapter_is_not_replaced_unasked_and_a_failed_save_leaves_it(saved):
    before = (saved / WEIGHTS).read_bytes()
    with pytest.raises(FileExistsError, match="overwrite=True replaces it"):
        hub.save_peft(saved, LIFTED, FACTORS)
    wrong = {path: {"a": arrays["a"]} for path, arrays in FACTORS.items()}
    with pytest.raises(ValueError, match="needs"):
        hub.save_peft(saved, LIFTED, wrong, overwrite=True)
    assert (saved / WEIGHTS).read_bytes() == before
    assert sorted(file.name for file in saved.iterdir()) == [CONFIG, WEIGHTS]


def test_a_function_that_calls_a_model_needs_its_config(tmp_path):
    def last(params, ids):
        return LLAMA.apply(params, ids)[:, -1]

    lifted = lora.lift(last, LLAMA.params, IDS, targets=("q_proj", "v_proj"), method=LORA)
    with pytest.raises(ValueError, match="give config="):
        hub.save_peft(tmp_path, lifted, FACTORS)
    hub.save_peft(tmp_path, lifted, FACTORS, config=LLAMA.config)
    assert_same(hub.load_peft(tmp_path, lifted, config=LLAMA.config), FACTORS)


def test_a_table_of_names_serves_a_model_of_ones_own(tmp_path):
    params = {"up": {"kernel": jnp.ones((2, 6, 4))}, "head": jnp.ones((4, 3))}

    def model(params, x):
        for kernel in params["up"]["kernel"]:
            x = jnp.tanh(x @ kernel) @ kernel.T
        return x @ params["up"]["kernel"][0] @ params["head"]

    lifted = lora.lift(model, params, jnp.ones((5, 6)), targets=("up", "head"), method=LORA)
    factors = trained(lifted, params)
    stored = (
        Stored("up/kernel", "net.{layer}.up.weight", transpose=True),
        Stored("head", "net.head.weight", transpose=True),
    )
    hub.save_peft(tmp_path, lifted, factors, names=Names(stored))
    assert set(load_file(tmp_path / WEIGHTS)) == {
        f"base_model.model.net.{name}.lora_{factor}.weight"
        for name in ("0.up", "1.up", "head")
        for factor in "AB"
    }
    assert_same(hub.load_peft(tmp_path, lifted, names=Names(stored)), factors)


def test_what_is_trained_whole_needs_the_base(tmp_path):
    targets = {"q_proj": None, "norm": lora.Full()}
    lifted = lift(targets={**targets, "^norm/scale$": lora.Full()})
    factors = trained(lifted, LLAMA.params)
    with pytest.raises(ValueError, match="give the base as params="):
        hub.save_peft(tmp_path, lifted, factors)


def test_methods_that_peft_does_not_mix_are_refused(tmp_path):
    lifted = lift(targets={"q_proj": None, "v_proj": lora.VeRA(rank=2)})
    with pytest.raises(ValueError, match="one method, but this lift has LORA and VERA"):
        hub.save_peft(tmp_path, lifted, trained(lifted, LLAMA.params))


def test_a_form_of_miss_that_multiplies_with_the_base_is_refused(tmp_path):
    lifted = lift(targets="q_proj", method=lora.MiSS(rank=2))
    hub.save_peft(tmp_path, lifted, trained(lifted, LLAMA.params))
    reconfigure(tmp_path, init_weights="bat")
    with pytest.raises(ValueError, match="init_weights='bat': that form of MiSS multiplies with W"):
        hub.load_peft(tmp_path, lifted)


@pytest.mark.parametrize(
    ("name", "targets", "message"),
    [
        (
            "llama",
            {"q_proj": lora.HiRA(2), "v_proj": lora.HiRA(3)},
            "PEFT's HiRA has one rank for all modules, but .* has 3",
        ),
        (
            "llama",
            {"q_proj": lora.GraLoRA(4), "v_proj": lora.GraLoRA(4, k=4)},
            "PEFT's GraLoRA has one k for all modules, but this lift has 2 and 4",
        ),
        (
            "llama",
            {"q_proj": lora.MiSS(4), "v_proj": lora.MiSS(4, mini=2)},
            "PEFT's MiSS has one mini",
        ),
        ("gpt2", {"fc1": lora.MiSS(4)}, "no form for MiSS .* a Conv1D, and it has for linear"),
        ("gpt2", {"q_proj": lora.GraLoRA(4)}, "blocks there run across the parts of a fused"),
        ("mixtral", {"up_proj": lora.HiRA(2)}, "no form for HiRA .* experts have LoRA alone"),
        ("gemma2", {"embed": lora.HiRA(2)}, "ties only LoRA's factors"),
        ("gpt2", {"^layers/fc1/bias$": lora.BitFit()}, "BEFT trains biases of linear layers"),
        (
            "gpt2",
            {"^layers/fc1/bias$": lora.BitFit(), lora.NORMS: lora.LayerNormTuning()},
            "trained whole and no norms, beside an adapter",
        ),
        ("llama", {"lm_head": lora.Full()}, "adapt a weight by LoRA too"),
    ],
)
def test_what_peft_has_no_place_for_is_refused(name, targets, message, tmp_path):
    model = hub.load_model(FIXTURES / name)
    lifted = lift(model, targets)
    with pytest.raises(ValueError, match=message):
        hub.save_peft(tmp_path, lifted, trained(lifted, model.params), params=model.params)


def test_norms_alone_are_saved_as_ln_tuning_and_come_back(tmp_path):
    lifted = lift(targets={lora.NORMS: lora.LayerNormTuning()})
    factors = trained(lifted, LLAMA.params)
    hub.save_peft(tmp_path, lifted, factors, params=LLAMA.params)
    fields = json.loads((tmp_path / CONFIG).read_text())
    assert fields["peft_type"] == "LN_TUNING"
    again, found = hub.lift_peft(tmp_path, LLAMA.apply, LLAMA.params, IDS)
    assert {type(site.method) for site in again.sites} == {lora.LayerNormTuning}
    wanted, merged = lifted.merge(LLAMA.params, factors), again.merge(LLAMA.params, found)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2**-22, atol=0), merged, wanted)


def adalora(tmp_path):
    """An AdaLoRA of rank 4 of which the second and last rank are dropped, and its files."""
    lifted = lift(method=lora.AdaLoRA(rank=4))
    kept = np.array([[True, False, True, False]] * 2)
    factors = drop_ranks({site.path: kept for site in lifted.sites}, trained(lifted, LLAMA.params))
    return lifted, factors, hub.save_peft(tmp_path / "ada", lifted, factors, params=LLAMA.params)


def test_dropped_ranks_are_cut_out_of_files_and_come_back_as_zeros(tmp_path):
    lifted, factors, saved = adalora(tmp_path)
    tensors = load_file(saved / WEIGHTS)
    assert {x.shape[0] for key, x in tensors.items() if key.endswith("lora_A")} == {2}
    pattern = json.loads((saved / CONFIG).read_text())["rank_pattern"]
    assert pattern["model.layers.0.self_attn.q_proj.lora_E"] == [True, False, True, False]
    assert_same(hub.load_peft(saved, lifted, params=LLAMA.params), factors)
    again, found = hub.lift_peft(saved, LLAMA.apply, LLAMA.params, IDS)
    assert again.sites[0].method == lora.AdaLoRA(rank=4)
    assert_same(found, factors)


def test_ranks_whose_value_alone_is_zero_are_not_cut(tmp_path):
    lifted = lift(method=lora.AdaLoRA(rank=4))
    factors = lifted.init(jax.random.key(0), LLAMA.params)  # E is zero before training
    hub.save_peft(tmp_path, lifted, factors)
    assert not json.loads((tmp_path / CONFIG).read_text())["rank_pattern"]
    assert_same(hub.load_peft(tmp_path, lifted), factors)


def test_a_rank_pattern_that_keeps_another_number_of_ranks_is_refused(tmp_path):
    lifted, _, saved = adalora(tmp_path)
    pattern = json.loads((saved / CONFIG).read_text())["rank_pattern"]
    name = next(iter(pattern))
    reconfigure(saved, rank_pattern=pattern | {name: [True, False, False, False]})
    with pytest.raises(ValueError, match=r"has shape .* keeps 1 of 4 ranks"):
        hub.load_peft(saved, lifted)
