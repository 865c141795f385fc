"""Saving is the inverse of loading: the same tensors, under the same names, in the same types."""

import json
import shutil
import tracemalloc
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from golden.all import CASES
from safetensors.numpy import load_file, save_file

import lora_jax as lora
from lora_jax import hub, models

FIXTURES = Path(__file__).parent.parent / "fixtures"
WORDS = "embeddings.word_embeddings.weight"


@pytest.fixture
def copy(tmp_path):
    return Path(shutil.copytree(FIXTURES / "bert", tmp_path / "model"))


def rewrite(directory, change):
    tensors = load_file(directory / "model.safetensors")
    save_file(change(tensors), directory / "model.safetensors")


def tensors_of(directory):
    return {
        name: t for file in directory.glob("*.safetensors") for name, t in load_file(file).items()
    }


def assert_same_files(found, wanted):
    found, wanted = tensors_of(found), tensors_of(wanted)
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype, name
        assert found[name].tobytes() == tensor.tobytes(), name


@pytest.mark.parametrize("name", CASES)
def test_a_model_that_is_saved_again_has_the_same_tensors_byte_for_byte(name, tmp_path):
    model = hub.load_model(FIXTURES / name, **CASES[name].options)
    hub.save_model(tmp_path / "saved", model)
    assert_same_files(tmp_path / "saved", FIXTURES / name)
    fields = (tmp_path / "saved" / "config.json").read_text()
    assert json.loads(fields) == json.loads((FIXTURES / name / "config.json").read_text())


def test_old_spellings_prefixes_and_tensors_without_a_place_are_kept(copy, tmp_path):
    def age(tensors):
        aged = {
            f"bert.{name.replace('LayerNorm.weight', 'LayerNorm.gamma')}": t
            for name, t in tensors.items()
        }
        return aged | {
            "bert.embeddings.position_ids": np.arange(12)[None],
            "cls.predictions.bias": np.ones(40, ml_dtypes.bfloat16),
        }

    rewrite(copy, age)
    hub.save_model(tmp_path / "saved", hub.load_model(copy))
    assert_same_files(tmp_path / "saved", copy)


def test_what_was_a_copy_of_a_tensor_stays_a_copy_when_that_changes(copy, tmp_path):
    other = "cls.predictions.decoder.weight"
    rewrite(copy, lambda tensors: tensors | {other: tensors[WORDS]})
    model = hub.load_model(copy)
    model.params["embed"]["embedding"] += 1
    hub.save_model(tmp_path / "saved", model)
    saved, before = tensors_of(tmp_path / "saved"), tensors_of(copy)
    assert np.array_equal(saved[WORDS], before[WORDS] + 1)
    assert np.array_equal(saved[other], saved[WORDS])


def test_params_of_another_type_are_written_in_that_of_the_files(copy, tmp_path):
    rewrite(copy, lambda tensors: {n: t.astype(ml_dtypes.bfloat16) for n, t in tensors.items()})
    model = hub.load_model(copy, dtype="float32")
    hub.save_model(tmp_path / "saved", model)
    assert_same_files(tmp_path / "saved", copy)


def test_a_type_on_request_is_that_of_tensors_and_config(copy, tmp_path):
    (copy / "config.json").write_text(
        json.dumps(json.loads((copy / "config.json").read_text()) | {"torch_dtype": "float32"})
    )
    rewrite(copy, lambda tensors: tensors | {"embeddings.position_ids": np.arange(12)[None]})
    hub.save_model(tmp_path / "saved", hub.load_model(copy), dtype="bfloat16")
    found = {name: t.dtype for name, t in tensors_of(tmp_path / "saved").items()}
    assert found.pop("embeddings.position_ids") == np.int64
    assert set(found.values()) == {np.dtype(ml_dtypes.bfloat16)}
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["torch_dtype"] == "bfloat16"


def test_large_models_are_spread_over_files_that_load_again(tmp_path):
    model = hub.load_model(FIXTURES / "bert")
    hub.save_model(tmp_path / "saved", model, max_shard_bytes=8000)
    files = sorted((tmp_path / "saved").glob("*.safetensors"))
    assert [file.name for file in files[:2]] == [
        f"model-0000{i}-of-0000{len(files)}.safetensors" for i in (1, 2)
    ]
    assert all(file.stat().st_size < 8000 + 4000 for file in files)
    index = json.loads((tmp_path / "saved" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(
        t.nbytes for t in tensors_of(FIXTURES / "bert").values()
    )
    assert hub.hash_params(hub.load_model(tmp_path / "saved").params) == hub.hash_params(
        model.params
    )


def test_the_tokenizer_and_the_chat_templates_come_along(copy, tmp_path):
    (copy / "additional_chat_templates").mkdir()
    (copy / "additional_chat_templates" / "tool_use.jinja").write_text("tools")
    hub.save_model(tmp_path / "saved", hub.load_model(copy))
    saved = hub.load_model(tmp_path / "saved").tokenizer
    assert (
        saved.encode(["the cat"]).ids.tolist()
        == hub.load_model(copy).tokenizer.encode(["the cat"]).ids.tolist()
    )
    assert saved.chat_templates == {"tool_use": "tools"}


def test_a_directory_is_replaced_only_on_request_and_only_by_a_whole_one(copy, tmp_path):
    model = hub.load_model(copy)
    (tmp_path / "saved").mkdir()
    hub.save_model(tmp_path / "saved", model)  # an empty directory is no loss
    (tmp_path / "saved" / "notes").write_text("kept")
    with pytest.raises(FileExistsError, match="is there already; overwrite=True replaces it"):
        hub.save_model(tmp_path / "saved", model)
    broken = {**model.params, "embed": {"embedding": jnp.zeros((3, 16))}}
    with pytest.raises(ValueError, match=r"has shape \(3, 16\), but \(40, 16\)"):
        hub.save_model(tmp_path / "saved", model, broken, overwrite=True)
    assert (tmp_path / "saved" / "notes").read_text() == "kept"
    hub.save_model(tmp_path / "saved", model, overwrite=True)
    assert not (tmp_path / "saved" / "notes").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "saved"]


def test_a_model_may_replace_the_one_it_was_loaded_from(copy):
    model = hub.load_model(copy)
    model.params["norm"] = None
    hub.save_model(copy, hub.load_model(copy), overwrite=True)
    assert_same_files(copy, FIXTURES / "bert")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.pop("embed_norm"), "the params lack embed_norm/bias"),
        (
            lambda p: p.update(adapter=jnp.ones(1)),
            "the params have, but the model has not, adapter",
        ),
    ],
)
def test_only_the_params_of_the_model_are_saved(copy, tmp_path, change, message):
    model = hub.load_model(copy)
    params = dict(model.params)
    change(params)
    with pytest.raises(ValueError, match=message):
        hub.save_model(tmp_path / "saved", model, params)
    assert not (tmp_path / "saved").exists()


def test_a_quantised_model_is_not_taken_for_the_one_it_was_made_from(tmp_path):
    model = hub.load_model(FIXTURES / "llama", quantize={"kind": "int8", "block": 8})
    with pytest.raises(ValueError, match="as plain arrays, adapters merged and nothing quantised"):
        hub.save_model(tmp_path / "saved", model)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"dtype": "bf16"}, "unknown dtype 'bf16'"), ({"max_shard_bytes": 0}, "not at least 1")],
)
def test_options_that_make_no_sense_are_refused(copy, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        hub.save_model(tmp_path / "saved", hub.load_model(copy), **options)


def test_saving_holds_one_tensor_at_a_time(copy, tmp_path):
    sizes = {16: 256, 24: 1024}

    def widen(tensors):
        wide = {n: tuple(sizes.get(s, s) for s in t.shape) for n, t in tensors.items()}
        return {name: np.zeros(shape, np.float32) for name, shape in wide.items()}

    rewrite(copy, widen)
    fields = json.loads((copy / "config.json").read_text())
    fields |= {"hidden_size": 256, "intermediate_size": 1024}
    (copy / "config.json").write_text(json.dumps(fields))
    model = hub.load_model(copy)
    largest = max(t.nbytes for t in tensors_of(copy).values())
    tracemalloc.start()
    hub.save_model(tmp_path / "saved", model)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # One as it lies in the params, one as it lies in the file.
    assert peak < 2.5 * largest < model.params["layers"]["fc1"]["kernel"].nbytes


WRITTEN = [
    name
    for name in CASES
    if name.startswith(("bert", "roberta", "gpt2", "llama", "mi", "qwen2", "qwen3", "gemma"))
    and name != "qwen2_5_vl"
]


@pytest.mark.parametrize("name", WRITTEN)
def test_params_without_files_are_saved_from_their_config(name, tmp_path):
    """Every switch of the config comes back, or `save_model` itself refuses."""
    options = CASES[name].options
    model = hub.load_model(FIXTURES / name, **options)
    hub.save_model(tmp_path / "saved", model.config, model.params)
    again = hub.load_model(tmp_path / "saved", **options)
    assert again.config == model.config
    assert hub.hash_params(again.params) == hub.hash_params(model.params)


def test_what_a_config_file_cannot_say_is_not_saved(tmp_path):
    sizes = {"vocab_size": 9, "dim": 8, "layers": 2, "heads": 2, "kv_heads": 2, "head_dim": 4}
    config = models.DecoderConfig(**sizes, ff_dim=8, window=3, windowed=(True, False))
    with pytest.raises(ValueError, match=r"config\.json of a 'llama' cannot say this windowed"):
        hub.save_model(tmp_path / "saved", config, {})
    with pytest.raises(ValueError, match="give the params of the DecoderConfig"):
        hub.save_model(tmp_path / "saved", config)
    with pytest.raises(ValueError, match="a T5Config of 't5' is saved only beside the files"):
        hub.save_model(tmp_path / "saved", models.T5Config(), {})


@pytest.mark.needs_data
def test_a_model_of_llama2c_becomes_a_directory_with_its_tokenizer(data_dir, tmp_path):
    model = hub.load_model(data_dir / "stories260k" / "stories260K.bin")
    again = hub.load_model(hub.save_model(tmp_path / "saved", model))
    assert again.config == model.config
    assert hub.hash_params(again.params) == hub.hash_params(model.params)
    texts = ["Once upon a time, there was a naïve 漢字."]
    assert again.tokenizer.encode(texts).ids.tolist() == model.tokenizer.encode(texts).ids.tolist()
    assert (again.tokenizer.bos_id, again.tokenizer.eos_id) == (1, 2)


@pytest.mark.torch
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", [name for name in WRITTEN if name != "llama_biased"])
def test_transformers_computes_the_same_from_a_config_that_was_written(name, tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    case = CASES[name]
    model = hub.load_model(FIXTURES / name, **case.options)
    hub.save_model(tmp_path / "saved", model.config, model.params)
    fields = json.loads((tmp_path / "saved" / "config.json").read_text())
    original, info = getattr(transformers, fields["architectures"][0]).from_pretrained(
        tmp_path / "saved", output_loading_info=True
    )
    assert not info["unexpected_keys"]
    expected = dict(np.load(FIXTURES / name / "expected.npz"))
    inputs = {key: torch.tensor(expected[key]) for key in case.arguments}
    with torch.no_grad():
        found = getattr(original.eval()(**inputs), case.output).numpy()
    real = expected["probe"] != 0
    np.testing.assert_allclose(found[real], expected["expected"][real], rtol=1e-3, atol=1e-4)


@pytest.mark.torch
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", CASES)
def test_transformers_loads_what_was_saved_and_misses_nothing(name, tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    pytest.importorskip("torch", reason="torch is not installed")
    model = hub.load_model(FIXTURES / name, **CASES[name].options)
    hub.save_model(tmp_path / "saved", model, max_shard_bytes=10_000)
    fields = json.loads((tmp_path / "saved" / "config.json").read_text())
    original = getattr(transformers, fields["architectures"][0])
    _, info = original.from_pretrained(tmp_path / "saved", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))


@pytest.mark.torch
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    ("name", "targets"),
    [
        ("bert_classification", ("q_proj", "fc1")),
        ("gpt2", ("q_proj", "v_proj", "fc2")),
        ("mixtral", ("q_proj", "experts/down_proj/kernel")),
    ],
)
def test_a_merged_adapter_computes_the_same_in_transformers(name, targets, tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    case = CASES[name]
    model = hub.load_model(FIXTURES / name, **case.options)
    expected = dict(np.load(FIXTURES / name / "expected.npz"))
    args = [expected[key] for key in case.arguments]
    lifted = lora.lift(model.apply, model.params, *args, method=lora.LoRA(rank=2), targets=targets)
    factors = jax.tree.map(lambda x: x + 0.3, lifted.init(jax.random.key(0), model.params))
    hub.save_model(tmp_path / "saved", model, lifted.merge(model.params, factors))
    fields = json.loads((tmp_path / "saved" / "config.json").read_text())
    original = getattr(transformers, fields["architectures"][0]).from_pretrained(tmp_path / "saved")
    inputs = {key: torch.tensor(expected[key]) for key in case.arguments}
    with torch.no_grad():
        theirs = getattr(original.eval()(**inputs), case.output).numpy()
    ours = np.asarray(jax.jit(lifted)(model.params, factors, *args))
    real = expected["probe"] != 0
    assert np.abs(theirs - expected["expected"])[real].max() > 0.1  # the adapter does something
    np.testing.assert_allclose(ours[real], theirs[real], rtol=2e-3, atol=2e-4)
