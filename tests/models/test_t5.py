"""T5 beyond what the recorded cases show: its cache, its padding, its buckets, refusals."""

import dataclasses
import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from golden.case import QUICK, error

import lora_jax as lora
from lora_jax import hub, models
from lora_jax.hub.t5 import read_config
from lora_jax.models.t5_config import T5Config
from lora_jax.models.t5_positions import RelativePositions, bucket_table

FIXTURES = Path(__file__).parent.parent / "fixtures"
NAMES = ("input_ids", "attention_mask", "decoder_input_ids")
TINY = T5Config(dim=8, heads=3, layers=2, buckets=8, farthest=9)


def run(model, params, *inputs, outputs="logits", **named):
    return compiled(model.apply, outputs)(params, *inputs, **named)


@functools.cache
def compiled(apply, outputs):
    return jax.jit(functools.partial(apply, outputs=outputs), compiler_options=QUICK)


@pytest.fixture(scope="module")
def recorded():
    """A model, its inputs and the logits of the whole pass."""
    model = hub.load_model(FIXTURES / "flan_t5")
    expected = np.load(FIXTURES / "flan_t5" / "expected.npz")
    inputs = [expected[name] for name in NAMES]
    return model, inputs, run(model, model.params, *inputs)


def test_cached_decoding_of_an_adapted_model_equals_its_whole_pass_at_every_position(recorded):
    model, (ids, mask, decoder_ids), plain = recorded
    lifted = lora.lift(
        model.apply, model.params, *recorded[1], method=lora.LoRA(2), targets=lora.ALL_LINEAR
    )
    factors = jax.tree.map(lambda x: x + 0.05, lifted.init(jax.random.key(0), model.params))
    apply = jax.jit(lifted, compiler_options=QUICK)
    wanted = apply(model.params, factors, ids, mask, decoder_ids)
    assert error(wanted, plain) > 0.01
    cache = models.new_cache(model.config, len(ids), slots=10)
    logits, cache = apply(model.params, factors, ids, mask, decoder_ids[:, :1], cache=cache)
    assert error(logits, wanted[:, :1]) < 1e-5
    for i in range(1, decoder_ids.shape[1]):
        token = decoder_ids[:, i : i + 1]
        logits, cache = apply(model.params, factors, None, None, token, cache=cache)
        assert error(logits, wanted[:, i : i + 1]) < 1e-5, i
    assert cache.lengths.tolist() == [8, 8, 8]


def test_rows_of_a_cache_are_selected_whole(recorded):
    model, (ids, mask, decoder_ids), wanted = recorded
    rows = jnp.array([2, 0, 0, 1])
    cache = models.new_cache(model.config, len(ids), slots=8)
    _, cache = run(model, model.params, ids, mask, decoder_ids[:, :5], cache=cache)
    after = decoder_ids[rows, 5:]
    logits, cache = run(model, model.params, None, None, after, cache=cache.select(rows))
    assert error(logits, wanted[rows, 5:]) < 1e-5
    assert cache.order.shape == (4, 8)


def test_keys_and_values_of_the_encoded_text_are_computed_once(recorded):
    model, (ids, mask, decoder_ids), _ = recorded
    cache = models.new_cache(model.config, len(ids), slots=8)
    _, cache = run(model, model.params, ids, mask, decoder_ids[:, :4], cache=cache)
    wanted, _ = run(model, model.params, None, None, decoder_ids[:, 4:], cache=cache)
    blind = jax.tree.map_with_path(
        lambda path, x: x * 0 if "cross" in str(path) and "k_proj" in str(path) else x,
        model.params,
    )
    found, _ = run(model, blind, None, None, decoder_ids[:, 4:], cache=cache)
    assert np.array_equal(found, wanted)


def test_padding_of_either_text_on_either_side_changes_nothing(recorded):
    model, (ids, mask, decoder_ids), _ = recorded
    ids, mask, decoder_ids = ids[:2, :7], mask[:2, :7], decoder_ids[:2]  # real tokens alone
    wanted = run(model, model.params, ids, mask, decoder_ids)
    padded = [np.pad(x, [(0, 0), (3, 2)]) for x in (ids, mask)]
    around = np.pad(decoder_ids, [(0, 0), (2, 1)])
    real = np.pad(np.ones_like(decoder_ids), [(0, 0), (2, 1)])
    found = run(model, model.params, *padded, around, real)
    assert error(found[:, 2:-1], wanted) < 1e-5
    last = run(model, model.params, *padded, around, real, outputs="last")
    assert error(last, wanted[:, -1]) < 1e-5
    cache = models.new_cache(model.config, 2, slots=16)
    _, cache = run(model, model.params, *padded, around[:, :-4], real[:, :-4], cache=cache)
    found, _ = run(model, model.params, None, None, around[:, -4:], real[:, -4:], cache=cache)
    assert error(found[:, :-1], wanted[:, -3:]) < 1e-5


@pytest.mark.parametrize(("scan", "remat"), [(False, "none"), (True, "full")])
def test_scanned_unrolled_and_rematerialised_models_are_equal(scan, remat, recorded):
    model, inputs, wanted = recorded
    other = hub.load_model(model.directory, scan=scan, remat=remat)
    assert error(run(other, model.params, *inputs), wanted) < 1e-6


def test_bfloat16_is_close_to_float32(recorded):
    model, inputs, _ = recorded
    # Gentler weights than the recorded ones, which make much of every rounding.
    params = jax.tree.map(lambda x: x / 8 if x.ndim == 3 else x, model.params)
    low = models.build(dataclasses.replace(model.config, dtype="bfloat16"))
    found = run(low, params, *inputs)
    assert found.dtype == jnp.float32
    assert error(found, run(model, params, *inputs)) < 0.05


def test_the_buckets_of_the_published_models():
    # 16 + floor(16 · ln(d / 16) / ln 8), worked out by hand; from 128 on, the last one.
    table = bucket_table(32, 128)
    assert table[:17].tolist() == list(range(17))
    assert table[[20, 32, 64, 127, 128]].tolist() == [17, 21, 26, 31, 31]
    assert (np.diff(table) >= 0).all()


@pytest.mark.parametrize("both_sides", [True, False])
def test_the_bias_by_shifting_is_that_of_all_pairs_of_places(both_sides):
    positions = RelativePositions(TINY, nnx.Rngs(0), both_sides=both_sides)
    places = jnp.arange(13)[None]
    both = jax.jit(lambda: (positions.within(13), positions.between(places, places)))
    found, wanted = both()
    assert wanted.shape == (1, 3, 13, 13)
    assert np.array_equal(found, wanted)
    row = np.asarray(positions.relative.embedding[...]).T
    # Place 5 looks 2 places back, and on: on one side 4 buckets, the first 2 of one distance each.
    assert np.array_equal(wanted[0, :, 5, 3], row[:, 2])
    assert np.array_equal(wanted[0, :, 5, 7], row[:, 6 if both_sides else 0])


def test_there_must_be_a_text_to_look_at():
    model = hub.load_model(FIXTURES / "t5")
    tokens = np.array([[5, 6]])
    for cache in (None, models.new_cache(model.config, 1, 4)):
        with pytest.raises(ValueError, match="no ids to encode, and no cache that has encoded"):
            jax.eval_shape(model.apply, model.params, None, None, tokens, cache=cache)


def test_a_cache_that_is_too_short_is_refused():
    model = hub.load_model(FIXTURES / "t5")
    tokens = np.array([[5, 6, 7]])
    cache = models.new_cache(model.config, 1, 2)
    with pytest.raises(ValueError, match="3 new tokens, but the cache has 2 slots"):
        jax.eval_shape(model.apply, model.params, tokens, None, tokens, cache=cache)


def fields(**changes):
    return json.loads((FIXTURES / "t5" / "config.json").read_text()) | changes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"feed_forward_proj": "gated-gelu-2"}, "feed_forward_proj 'gated-gelu-2' is neither"),
        ({"feed_forward_proj": "mish"}, "unknown activation 'mish'"),
        ({"is_encoder_decoder": False}, "is_encoder_decoder is false"),
        ({"relative_attention_num_buckets": 6}, "buckets is 6, which is not a multiple of 4"),
        ({"relative_attention_max_distance": 4}, "farthest is 4, but with 8 buckets"),
    ],
)
def test_a_config_that_is_not_supported_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        read_config(fields(**change))


def test_a_config_without_a_size_is_refused():
    with pytest.raises(ValueError, match="lacks d_kv"):
        read_config({name: value for name, value in fields().items() if name != "d_kv"})


@pytest.mark.parametrize(
    ("change", "tied", "scaled"),
    [
        ({}, True, True),  # the first T5
        ({"tie_word_embeddings": True}, True, True),
        ({"tie_word_embeddings": False}, False, False),  # version 1.1 and Flan-T5, as published
        ({"tie_word_embeddings": True, "scale_decoder_outputs": False}, False, False),  # resaved
    ],
)
def test_whether_the_head_is_tied_follows_from_whether_hidden_states_are_scaled(
    change, tied, scaled
):
    plain = fields()
    del plain["tie_word_embeddings"], plain["scale_decoder_outputs"]
    config = read_config(plain | change)
    assert (config.tied, config.scale_hidden) == (tied, scaled)
    assert read_config(plain | change, tied=not tied).tied != tied


def test_a_head_of_its_own_is_not_taken_for_a_tied_one():
    with pytest.raises(ValueError, match=r"no place for: lm_head\.weight"):
        hub.load_model(FIXTURES / "flan_t5", tied=True)
