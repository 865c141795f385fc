"""Packed rows: a decoder computes for each document what it computes for it alone."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.case import QUICK, error

import lora_jax as lora
from lora_jax import models
from lora_jax.data import pack
from lora_jax.models.segments import place_in_segments, up_to_here

FIXTURES = Path(__file__).parent.parent / "fixtures"
SIZES = (9, 5, 2, 7, 1)
LENGTH = 13


def documents():
    rng = np.random.default_rng(0)
    ids = [rng.integers(5, 40, n).astype(np.int32) for n in SIZES]
    return [{"ids": x, "trained": np.ones_like(x)} for x in ids]


# Positions in a table, RoPE, windows, windows with a RoPE of their own, experts.
@pytest.mark.parametrize("scan", [True, False])
@pytest.mark.parametrize("name", ["gpt2", "llama", "mistral", "gemma3", "mixtral"])
def test_a_packed_document_has_the_logits_that_it_has_alone(name, scan):
    model = lora.hub.load_model(FIXTURES / name, scan=scan)
    rows = pack(documents(), LENGTH)
    assert rows["segments"].max() > 1
    run = jax.jit(model.apply, compiler_options=QUICK)
    packed = np.asarray(run(model.params, rows["ids"], segments=rows["segments"]))
    # A row each. Nothing need be said of what follows a text: no token looks ahead.
    padded = np.stack([np.pad(d["ids"], (0, LENGTH - len(d["ids"]))) for d in documents()])
    logits = run(model.params, padded)
    alone = {tuple(d["ids"]): logits[i, : len(d["ids"])] for i, d in enumerate(documents())}
    found = 0
    for row, segments in enumerate(rows["segments"]):
        for number in range(1, segments.max() + 1):
            here = segments == number
            wanted = np.asarray(alone[tuple(rows["ids"][row][here])])
            assert error(packed[row][here], wanted) < 1e-5
            found += 1
    assert found == len(SIZES)


@pytest.mark.parametrize("name", ["gpt2", "gemma3"])
def test_a_boundary_that_is_off_by_one_changes_the_logits(name):
    model = lora.hub.load_model(FIXTURES / name)
    rows = pack(documents(), LENGTH)
    run = jax.jit(model.apply, compiler_options=QUICK)
    right = run(model.params, rows["ids"], segments=rows["segments"])
    shifted = np.roll(rows["segments"], 1, axis=1)
    shifted[:, 0] = 1
    wrong = run(model.params, rows["ids"], segments=shifted)
    real = (rows["segments"] != 0) & (shifted != 0)
    assert error(np.asarray(wrong)[real], np.asarray(right)[real]) > 0.05


def test_one_segment_with_padding_is_what_a_mask_says():
    model = lora.hub.load_model(FIXTURES / "gpt2")
    ids = np.arange(5, 17, dtype=np.int32).reshape(2, 6)
    mask = np.array([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]], np.int32)
    run = jax.jit(model.apply, compiler_options=QUICK)
    by_mask, by_segments = (run(model.params, ids, **{name: mask}) for name in ("mask", "segments"))
    both = run(model.params, ids, mask, segments=np.ones_like(ids))
    real = mask == 1  # what padding sees is of no account
    assert np.array_equal(by_mask[real], by_segments[real])
    assert np.array_equal(by_mask[real], both[real])


def test_images_may_lie_in_packed_rows():
    model = lora.hub.load_model(FIXTURES / "llava")
    recorded = np.load(FIXTURES / "llava" / "expected.npz")
    ids, mask, pixels = (recorded[k] for k in ("input_ids", "attention_mask", "pixel_values"))
    run = jax.jit(model.apply, compiler_options=QUICK)
    rows = [ids[row][mask[row] == 1] for row in range(len(ids))]
    packed = np.concatenate(rows)[None]
    segments = np.repeat(np.arange(len(rows)), [len(row) for row in rows])[None] + 1
    found = run(model.params, packed, pixels=pixels, segments=segments)
    wanted = np.asarray(run(model.params, ids, mask, pixels=pixels))[mask == 1]
    assert error(np.asarray(found)[0], wanted) < 1e-5


def test_places_restart_and_a_number_that_comes_again_is_another_segment():
    segments = jnp.array([[7, 7, 2, 7, 7, 0, 2]])
    assert place_in_segments(segments).tolist() == [[0, 1, 0, 0, 1, -1, 0]]
    mask = jnp.array([[0, 1, 1, 1, 0, 1, 1]])
    assert place_in_segments(segments, mask).tolist() == [[-1, 0, 0, 0, -1, -1, 0]]
    seen = up_to_here(segments)[0, 0]
    assert seen[0].tolist() == [True, False, False, False, False, False, False]
    assert seen[1].tolist() == [True, True, False, False, False, False, False]
    assert seen[4].tolist() == [False, False, False, True, True, False, False]


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen2_5_vl"])
def test_a_cache_does_not_go_with_segments(name):
    model = lora.hub.load_model(FIXTURES / name)
    ids = np.ones((1, 4), np.int32)
    with pytest.raises(ValueError, match="cannot go with segments"):
        model.apply(model.params, ids, segments=ids, cache=models.new_cache(model.config, 1, 8))
