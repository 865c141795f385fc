"""Everything that can be wrong with files is said in one sentence, before a parameter is read."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lora_jax import hub

FIXTURES = Path(__file__).parent.parent / "fixtures"
QUERY = "encoder.layer.1.attention.self.query.weight"


@pytest.fixture
def copy(tmp_path):
    return Path(shutil.copytree(FIXTURES / "bert", tmp_path / "model"))


def rewrite(directory, change):
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors")


def edit_config(directory, **fields):
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def refused(directory, *parts, error=ValueError, **options):
    """Checks that loading fails and that the message holds every part."""
    with pytest.raises(error) as caught:
        hub.load_model(directory, **options)
    for part in parts:
        assert str(part) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kept", [0, 4, 100, 5000, -1])
def test_a_truncated_file(copy, kept):
    path = copy / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    refused(copy, path, "is not a whole safetensors file", "bytes")


def test_a_file_of_noise(copy):
    path = copy / "model.safetensors"
    path.write_bytes(np.random.default_rng(0).bytes(10_000))
    refused(copy, path, "is not a whole safetensors file")


def test_a_missing_tensor_names_the_nearest(copy):
    rewrite(copy, lambda tensors: tensors.pop(QUERY))
    refused(
        copy,
        f"no tensor {QUERY!r} (for layers/q_proj/kernel)",
        copy / "model.safetensors",
        "encoder.layer.0.attention.self.query.weight",
    )


def test_a_tensor_of_a_wrong_shape(copy):
    rewrite(copy, lambda tensors: tensors.update({QUERY: np.zeros((16, 12), np.float32)}))
    refused(copy, QUERY, copy / "model.safetensors", "(16, 12)", "(16, 16)")


def test_a_vocabulary_of_another_size_than_the_table(copy):
    edit_config(copy, vocab_size=41)
    refused(copy, "embeddings.word_embeddings.weight", "(40, 16)", "(41, 16)")


def test_a_tensor_of_a_wrong_type(copy):
    rewrite(copy, lambda tensors: tensors.update({QUERY: np.zeros((16, 16), np.int32)}))
    refused(copy, QUERY, copy / "model.safetensors", "I32", "BF16, F16, F32")


def test_layers_of_several_types(copy):
    rewrite(copy, lambda tensors: tensors.update({QUERY: np.zeros((16, 16), np.float16)}))
    refused(copy, "layers/q_proj/kernel", QUERY, "F16", "F32", "give a dtype")
    hub.load_model(copy, dtype="float32")


def test_more_layers_in_the_file_than_in_the_config(copy):
    edit_config(copy, num_hidden_layers=2)
    refused(copy, "no place for", "encoder.layer.2.", "and 13 more", "ignore=")


def test_fewer_layers_in_the_file_than_in_the_config(copy):
    edit_config(copy, num_hidden_layers=4)
    refused(copy, "no tensor 'encoder.layer.3.", "nearest")


def test_one_tensor_under_two_names(copy):
    rewrite(copy, lambda tensors: tensors.update({f"bert.{QUERY}": tensors[QUERY]}))
    refused(copy, copy / "model.safetensors", "holds both", f"'{QUERY}'", f"'bert.{QUERY}'")


def test_a_wrong_hash(copy):
    refused(copy, copy / "model.safetensors", "has sha256", "0" * 64, sha256="0" * 64)


def test_a_hash_for_another_file(copy):
    refused(copy, "no sha256 given for model.safetensors", sha256={"other": "0" * 64})


def test_a_missing_shard(copy):
    (copy / "model.safetensors").unlink()
    index = {"weight_map": {QUERY: "model-00001-of-00001.safetensors"}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(copy, "index.json lists model-00001-of-00001", "lacks it", error=FileNotFoundError)


def shard(directory):
    """Spreads the weights over two files with an index, and returns the index."""
    tensors = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    weight_map = {}
    for i in range(2):
        names = sorted(tensors)[i::2]
        save_file({name: tensors[name] for name in names}, directory / f"model-{i}.safetensors")
        weight_map |= dict.fromkeys(names, f"model-{i}.safetensors")
    write_index(directory, weight_map)
    return weight_map


def write_index(directory, weight_map):
    path = directory / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": weight_map}))


def test_a_truncated_shard(copy):
    shard(copy)
    path = copy / "model-1.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    refused(copy, path, "is not a whole safetensors file")


def test_a_shard_that_lacks_a_tensor_of_the_index(copy):
    weight_map = shard(copy)
    write_index(copy, weight_map | {"more": "model-0.safetensors"})
    refused(copy, "index.json says that 'more' is in model-0.safetensors, which does not hold it")
    write_index(copy, weight_map | {QUERY: "model-1.safetensors"})
    assert weight_map[QUERY] == "model-0.safetensors"
    refused(copy, f"says that '{QUERY}' is in model-1.safetensors")


@pytest.mark.parametrize("name", ["../model-0.safetensors", "a/b.safetensors", 3])
def test_an_index_of_files_elsewhere(copy, name):
    write_index(copy, shard(copy) | {QUERY: name})
    refused(copy, f"index.json lists {name!r}, which is not the name of a file beside it")


def test_an_index_without_a_map(copy):
    (copy / "model.safetensors").unlink()
    (copy / "model.safetensors.index.json").write_text("{}")
    refused(copy, "model.safetensors.index.json has no weight_map")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file(copy, name):
    (copy / name).unlink()
    refused(copy, copy, name, error=FileNotFoundError)


def test_a_missing_tokenizer_is_named_at_its_first_use(copy):
    (copy / "tokenizer.json").unlink()
    tokenizer = hub.load_model(copy).tokenizer
    with pytest.raises(FileNotFoundError, match=r"model has no tokenizer\.json"):
        tokenizer.encode(["a"])


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt"])
def test_pickle_is_never_read(copy, name):
    (copy / "model.safetensors").rename(copy / name)
    refused(copy, "pickle", name, "safetensors")


@pytest.mark.parametrize("text", ["{", "[1]", "\xff"])
def test_a_config_that_is_not_a_json_object(copy, text):
    (copy / "config.json").write_bytes(text.encode("latin-1"))
    refused(copy, copy / "config.json", "JSON")


def test_an_unsupported_family(copy):
    edit_config(copy, model_type="bart")
    refused(copy, copy / "config.json", "'bart'", "supported: bert, ", "roberta")


def test_a_config_without_a_size(copy):
    path = copy / "config.json"
    fields = json.loads(path.read_text())
    del fields["hidden_size"]
    path.write_text(json.dumps(fields))
    refused(copy, path, "lacks hidden_size")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"position_embedding_type": "relative_key"}, "relative_key"),
        ({"is_decoder": True}, "only encoders"),
        ({"hidden_act": "mish"}, "unknown activation 'mish'"),
        ({"num_attention_heads": 3}, "dim 16 is not a multiple of heads 3"),
    ],
)
def test_a_config_that_asks_for_what_is_not_computed(copy, fields, message):
    edit_config(copy, **fields)
    refused(copy, copy / "config.json", message)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_size": -16}, "makes dim -16, which is no size of a model"),
        ({"vocab_size": 10**12}, "makes vocab_size 1000000000000, which is no size"),
        ({"intermediate_size": 24.5}, "makes ff_dim 24.5, which is no size"),
        ({"hidden_size": "16"}, "does not go together with the options"),
        ({"num_attention_heads": 0}, "does not go together with the options"),
        ({"num_hidden_layers": 10**9}, "asks for 1000000000 tensors 'encoder.layer.{layer}."),
        ({"intermediate_size": 2**31}, "has shape (24, 16), but config.json makes it (2147483648"),
    ],
)
@pytest.mark.usefixtures("without_type_checks")
def test_negative_and_absurd_sizes(copy, fields, message):
    edit_config(copy, **fields)
    refused(copy, message)


@pytest.mark.parametrize("name", ["gpt2", "llama", "mixtral"])
def test_missing_and_unexpected_tensors_of_a_decoder_are_named(tmp_path, name):
    directory = Path(shutil.copytree(FIXTURES / name, tmp_path / "model"))
    whole = load_file(directory / "model.safetensors")
    gone = sorted(whole)[len(whole) // 2]
    rewrite(directory, lambda tensors: tensors.pop(gone))
    refused(directory, f"no tensor '{gone.removeprefix('transformer.').removeprefix('model.')}'")
    save_file(whole, directory / "model.safetensors")
    rewrite(directory, lambda tensors: tensors.update(extra=np.ones(3, np.float32)))
    refused(directory, "no place for: extra; pass regular expressions")


def test_a_corrupt_tokenizer(copy):
    (copy / "tokenizer.json").write_text("{}")
    refused(copy, copy / "tokenizer.json", "is not a tokenizer")


def test_a_tokenizer_with_more_tokens_than_the_model(copy):
    path = copy / "tokenizer.json"
    fields = json.loads(path.read_text())
    fields["model"]["vocab"] |= {f"word{i}": 30 + i for i in range(20)}
    path.write_text(json.dumps(fields))
    refused(copy, path, "makes the vocabulary 40")


def test_an_unknown_dtype(copy):
    refused(copy, "unknown dtype 'bf16'", dtype="bf16")


def test_a_misspelt_directory_names_the_nearest(copy):
    refused(copy.parent / "modle", "no directory", "near it: model", error=FileNotFoundError)


def test_a_directory_nowhere_near(tmp_path):
    path = tmp_path / "a" / "b"
    refused(path, f"{path.parent} does not exist", error=FileNotFoundError)
