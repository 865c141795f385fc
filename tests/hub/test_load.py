"""Reading whole directories: where files are found, sharded files, stored types, placement."""

import functools
import json
import operator
import shutil
import tracemalloc
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from safetensors.numpy import load_file, save_file

from lora_jax import hub, models
from lora_jax.hub.bert import NAMES
from lora_jax.hub.params import read_params
from lora_jax.hub.safetensors import open_tensors

FIXTURES = Path(__file__).parent.parent / "fixtures"


@pytest.fixture
def copy(tmp_path):
    """A copy of the BERT fixture that a test may change."""
    return Path(shutil.copytree(FIXTURES / "bert", tmp_path / "model"))


def rewrite(directory, change):
    """Replaces the weights by what `change` makes of them."""
    save_file(change(load_file(directory / "model.safetensors")), directory / "model.safetensors")


def shard(directory, parts):
    """Splits the weights over several files with an index, as large checkpoints are."""
    tensors = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    weight_map = {}
    for part in range(parts):
        file = f"model-{part + 1:05}-of-{parts:05}.safetensors"
        names = sorted(tensors)[part::parts]
        save_file({name: tensors[name] for name in names}, directory / file)
        weight_map |= dict.fromkeys(names, file)
    index = directory / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def assert_equal(found, wanted):
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert a.dtype == b.dtype
        assert np.array_equal(a, b)


def test_every_parameter_has_a_row_in_the_table_and_every_row_a_parameter():
    shapes = models.build(models.BertConfig(dim=8, heads=2, pooler=True)).shapes
    paths = jax.tree.leaves_with_path(shapes)
    ours = {jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in paths}
    assert ours == {row.path for row in NAMES.stored}
    assert len(NAMES.stored) == len(ours)


def test_layers_are_stacked_in_order_and_kernels_are_in_by_out():
    file = load_file(FIXTURES / "bert" / "model.safetensors")
    layers = hub.load_model(FIXTURES / "bert").params["layers"]
    for i in range(3):
        name = f"encoder.layer.{i}.intermediate.dense"
        assert np.array_equal(layers["fc1"]["kernel"][i], file[f"{name}.weight"].T)
        assert np.array_equal(layers["fc1"]["bias"][i], file[f"{name}.bias"])


def test_a_sharded_checkpoint_gives_the_same_params_as_one_file(copy):
    shard(copy, 3)
    assert_equal(hub.load_model(copy).params, hub.load_model(FIXTURES / "bert").params)


@pytest.mark.parametrize("prefix", ["bert.", "roberta."])
def test_a_prefix_before_every_name_makes_no_difference(copy, prefix):
    rewrite(copy, lambda tensors: {prefix + name: t for name, t in tensors.items()})
    assert_equal(hub.load_model(copy).params, hub.load_model(FIXTURES / "bert").params)


def test_gamma_and_beta_of_old_checkpoints_are_weight_and_bias_of_norms(copy):
    def age(name):
        old = name.replace("LayerNorm.weight", "LayerNorm.gamma")
        return old.replace("LayerNorm.bias", "LayerNorm.beta")

    rewrite(copy, lambda tensors: {age(name): t for name, t in tensors.items()})
    assert_equal(hub.load_model(copy).params, hub.load_model(FIXTURES / "bert").params)


@pytest.mark.parametrize("stored", [ml_dtypes.bfloat16, np.float16])
def test_params_keep_the_type_in_the_file(copy, stored):
    rewrite(copy, lambda tensors: {name: t.astype(stored) for name, t in tensors.items()})
    model = hub.load_model(copy)
    assert {x.dtype for x in jax.tree.leaves(model.params)} == {jnp.dtype(stored)}
    assert model.config.dtype == jnp.dtype(stored).name


def test_params_are_converted_on_request():
    model = hub.load_model(FIXTURES / "bert", dtype="bfloat16")
    wanted = hub.load_model(FIXTURES / "bert").params
    assert_equal(model.params, jax.tree.map(lambda x: x.astype(jnp.bfloat16), wanted))


def test_params_are_read_straight_into_their_sharding():
    mesh = Mesh(np.array(jax.devices()[:6]).reshape(3, 2), ("layer", "out"))

    def sharding(path, shape):
        stacked = path.startswith("layers/")
        spec = ("layer", None, "out") if stacked else (None, "out")
        return NamedSharding(mesh, PartitionSpec(*spec[: len(shape)]))

    params = hub.load_model(FIXTURES / "bert", sharding=sharding).params
    kernel = params["layers"]["fc1"]["kernel"]
    assert kernel.sharding.spec == PartitionSpec("layer", None, "out")
    assert {s.data.shape for s in kernel.addressable_shards} == {(1, 16, 12)}
    assert_equal(params, hub.load_model(FIXTURES / "bert").params)


def test_tensors_left_out_on_request_may_bear_any_name(copy):
    rewrite(copy, lambda tensors: tensors | {"my_head.weight": np.ones((2, 2), np.float32)})
    found = hub.load_model(copy, ignore=(r"my_head\..*",)).params
    assert_equal(found, hub.load_model(FIXTURES / "bert").params)


def test_the_sha256_of_the_weights_is_checked(copy):
    digest = hub.hash_file(copy / "model.safetensors")
    hub.load_model(copy, sha256=digest)
    hub.load_model(copy, sha256={"model.safetensors": digest.upper()})


def test_a_base_keeps_its_hash_however_it_is_stored_and_placed(copy):
    wanted = hub.hash_params(hub.load_model(FIXTURES / "bert").params)
    shard(copy, 2)
    assert hub.hash_params(hub.load_model(copy).params) == wanted
    mesh = Mesh(np.array(jax.devices()[:2]), ("x",))
    spread = hub.load_model(copy, sharding=lambda *_: NamedSharding(mesh, PartitionSpec()))
    assert hub.hash_params(spread.params) == wanted


@pytest.mark.parametrize(
    "change",
    [
        lambda p: p["embed_norm"].update(bias=p["embed_norm"]["bias"].at[0].add(1e-6)),
        lambda p: p["embed_norm"].update(bias=p["embed_norm"]["bias"].astype(jnp.bfloat16)),
        lambda p: p["embed_norm"].update(bias=p["embed_norm"]["bias"].reshape(4, 4)),
        lambda p: p.update(other=p.pop("embed_norm")),
    ],
    ids=["value", "type", "shape", "name"],
)
def test_the_hash_of_params_sees_every_change(change):
    params = hub.load_model(FIXTURES / "bert").params
    before = hub.hash_params(params)
    change(params)
    assert hub.hash_params(params) != before


def test_files_of_several_types_give_params_of_several_types(copy):
    def mix(tensors):
        return {n: t.astype(np.float32 if t.ndim == 1 else np.float16) for n, t in tensors.items()}

    rewrite(copy, mix)
    model = hub.load_model(copy)
    assert model.params["layers"]["fc1"]["kernel"].dtype == jnp.float16
    assert model.params["layers"]["fc1"]["bias"].dtype == jnp.float32
    assert model.config.dtype == "float32"  # so that nothing in the files is rounded


def test_options_are_fields_of_the_config_of_the_family():
    model = hub.load_model(FIXTURES / "gpt2", scan=False, remat="full")
    assert (model.config.scan, model.config.remat) == (False, "full")
    with pytest.raises(ValueError, match=r"'gpt2' has no option pooler; it has .*scan, remat"):
        hub.load_model(FIXTURES / "gpt2", pooler=True)
    with pytest.raises(ValueError, match=r"config\.json does not go together with .* layers"):
        hub.load_model(FIXTURES / "gpt2", layers=1)


def test_the_directory_is_that_of_the_files():
    assert hub.load_model(FIXTURES / "bert").directory == FIXTURES / "bert"


def test_texts_end_where_the_settings_of_generation_say(tmp_path):
    directory = Path(shutil.copytree(FIXTURES / "llama", tmp_path / "model"))
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 9]}))
    assert hub.load_model(directory).config.eos_ids == (7, 9)


def test_a_padding_id_below_zero_is_none(tmp_path):
    directory = Path(shutil.copytree(FIXTURES / "llama", tmp_path / "model"))
    fields = json.loads((directory / "config.json").read_text())
    fields |= {"pad_token_id": -1, "eos_token_id": 3}
    (directory / "config.json").write_text(json.dumps(fields))
    (directory / "generation_config.json").unlink(missing_ok=True)
    assert hub.load_model(directory).tokenizer.pad_id == 3


def test_loading_holds_the_params_and_no_second_copy(tmp_path):
    config = models.BertConfig(vocab_size=40, dim=64, layers=8, heads=2, ff_dim=256, positions=12)
    params = models.init(config, jax.random.key(0))
    save_file(original_tensors(params, config.layers), tmp_path / "model.safetensors")
    shapes = models.build(config).shapes
    size = sum(x.nbytes for x in jax.tree.leaves(params))
    largest = params["layers"]["fc1"]["kernel"].nbytes
    with open_tensors(tmp_path) as tensors:
        tracemalloc.start()
        found = read_params(tensors, NAMES, shapes)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert_equal(found, params)
    assert largest < size / 2
    # On CPU the params themselves are counted too, as far as JAX takes over the buffers of NumPy.
    assert peak < size + largest


def original_tensors(params, layers):
    """Params without a pooler under the names and in the axis order of the original."""
    tensors = {}
    for row in NAMES.stored[:-2]:
        *parents, key = row.path.split("/")
        leaf = functools.reduce(operator.getitem, parents, params)[key]
        parts = leaf if row.stacked_axes else [leaf]
        for name, part in zip(row.names((layers,)), parts, strict=True):
            tensors[name] = np.ascontiguousarray(part.T if row.transpose else part)
    return tensors
