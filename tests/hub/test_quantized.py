"""Models that are quantised while they are read."""

import tracemalloc
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import lora_jax as lora
from lora_jax import hub, models
from lora_jax.hub import quantized
from lora_jax.models.decoder import DecoderConfig
from lora_jax.training.sharding import make_mesh

FIXTURES = Path(__file__).parent.parent / "fixtures"
NF4 = {"kind": "nf4", "block": 8}


@pytest.mark.parametrize("name", ["gpt2", "mixtral"])  # parts of fused weights; layers and experts
def test_reading_and_quantising_at_once_gives_the_quantised_params(name):
    found = hub.load_model(FIXTURES / name, quantize=NF4).params
    wanted = lora.quantize(hub.load_model(FIXTURES / name).params, **NF4)
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


def test_weights_that_are_kept_are_read_as_they_are():
    found = hub.load_model(FIXTURES / "llama", quantize={**NF4, "keep": ("o_proj",)}).params
    exact = hub.load_model(FIXTURES / "llama").params
    kernel = found["layers"]["o_proj"]["kernel"]
    np.testing.assert_array_equal(kernel, exact["layers"]["o_proj"]["kernel"])


def test_a_loaded_model_takes_its_quantised_params():
    model = hub.load_model(FIXTURES / "llama", quantize=NF4)
    ids = np.array([[5, 6, 7]])
    lifted = lora.lift(model.apply, model.params, ids, targets=("q_proj",), strict=True)
    factors = lifted.init(jax.random.key(0), model.params)
    found = jax.jit(model.apply)(model.params, ids)
    np.testing.assert_allclose(
        found, jax.jit(lifted)(model.params, factors, ids), rtol=1e-5, atol=1e-5
    )


def test_quantised_arrays_are_put_where_the_weight_would_be():
    mesh = make_mesh({"data": 4, "fsdp": 2, "tensor": 1})

    def sharding(path, shape):
        split = PartitionSpec(None, None, "fsdp") if len(shape) == 3 else PartitionSpec()
        return NamedSharding(mesh, split)

    found = hub.load_model(FIXTURES / "llama", quantize=NF4, sharding=sharding).params
    wanted = hub.load_model(FIXTURES / "llama", quantize=NF4).params
    codes = found["layers"]["q_proj"]["kernel"].codes
    assert codes.addressable_shards[0].data.shape == (2, 8, 16)
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


@pytest.mark.parametrize(
    ("quantize", "message"),
    [
        ("nf3", "unknown quantisation 'nf3'; known: int8, nf4"),
        ({"kin": "nf4"}, "give a kind, or a mapping with kind, keep, block"),
        ("nf4", "block=64 does not divide its"),
        ({**NF4, "keep": ("q_porj",)}, "keep 'q_porj' matches no weight; nearest: 'q_proj'"),
    ],
)
def test_what_cannot_be_quantised_so_is_refused(quantize, message):
    with pytest.raises(ValueError, match=message):
        hub.load_model(FIXTURES / "llama", quantize=quantize)


def test_the_exact_model_is_never_in_memory(tmp_path, monkeypatch):
    config = DecoderConfig(
        dim=256, ff_dim=512, layers=8, heads=4, kv_heads=4, head_dim=64, vocab_size=64
    )
    params = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), models.build(config).shapes)
    hub.save_model(tmp_path / "model", config, params)
    exact = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    del params
    hub.load_model(tmp_path / "model", quantize="int8")  # whatever is kept from a first call
    before = live_bytes()
    seen = []

    def watched(*args):
        seen.append(live_bytes() - before)
        return lora.quantization.quantize_array(*args)

    monkeypatch.setattr(quantized, "quantize_array", watched)
    tracemalloc.start()
    model = hub.load_model(tmp_path / "model", quantize="int8")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    stored = sum(leaf.nbytes for leaf in jax.tree.leaves(model.params))
    assert len(seen) == 8 * 7  # matrix by matrix
    # All that numpy held at its peak, and all of JAX's arrays at theirs.
    assert peak + max(seen) < 2 * stored < 0.6 * exact
    assert model.params["layers"]["q_proj"]["kernel"].dtype == jnp.float32


def live_bytes():
    return sum(array.nbytes for array in jax.live_arrays())
