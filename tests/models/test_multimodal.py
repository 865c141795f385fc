"""Decoders that see images: caches, plans of images, adapters on any part, and what is refused."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.all import CASES
from golden.case import QUICK, error
from hypothesis import given, settings
from hypothesis import strategies as st

import lora_jax as lora
from lora_jax import models
from lora_jax.hub import load_model
from lora_jax.models.multimodal import place_features
from lora_jax.models.qwen2_5_vl_plan import plan_positions, plan_vision

FIXTURES = Path(__file__).parent.parent / "fixtures"


def prompt(name):
    """A recorded model, and texts padded at the left with what else it takes."""
    model = load_model(FIXTURES / name)
    recorded = np.load(FIXTURES / name / "expected.npz")
    inputs = {key.removeprefix("prompt:"): recorded[key] for key in recorded if "prompt:" in key}
    return model, inputs


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
def test_every_token_after_images_is_that_of_the_full_pass(name):
    """Decoding goes on at the right position after images, though it is not told of them."""
    model, inputs = prompt(name)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    more = np.random.default_rng(0).integers(5, 35, (2, 4)).astype(np.int32)
    longer = inputs | {
        "input_ids": np.concatenate([ids, more], axis=1),
        "attention_mask": np.concatenate([mask, np.ones_like(more)], axis=1),
    }
    named = CASES[name].keywords(model.config, longer)
    run = jax.jit(model.apply, compiler_options=QUICK)
    wanted = run(model.params, longer["input_ids"], longer["attention_mask"], **named)

    cache = models.new_cache(model.config, 2, longer["input_ids"].shape[1] + 3)
    named = CASES[name].keywords(model.config, inputs)
    found, cache = run(model.params, ids, mask, cache=cache, **named)
    parts = [found]
    for i in range(more.shape[1]):
        found, cache = run(model.params, more[:, i : i + 1], cache=cache)
        parts.append(found)
    real = longer["attention_mask"][..., None]
    assert error(np.concatenate(parts, axis=1) * real, np.asarray(wanted * real)) < 1e-5
    assert cache.lengths.tolist() == longer["attention_mask"].sum(axis=1).tolist()


def test_rows_of_a_cache_keep_their_shift_when_they_are_chosen():
    model, _ = prompt("qwen2_5_vl")
    cache = models.new_cache(model.config, 2, 4)._replace(shift=jnp.array([-3, -5]))
    assert cache.select(jnp.array([1, 1, 0])).shift.tolist() == [-5, -5, -3]
    assert cache.select(jnp.array([1, 1, 0])).order.shape == (3, 4)


PARTS = {
    "vision/.*q_proj/kernel": {"vision/layers/q_proj/kernel"},
    "projector/.*kernel": {"projector/fc1/kernel", "projector/fc2/kernel"},
    "language/.*q_proj/kernel": {"language/layers/q_proj/kernel"},
}


def test_a_pattern_adapts_the_tower_the_projector_or_the_language_model():
    model, inputs = prompt("llava")
    args = inputs["input_ids"], inputs["attention_mask"]
    for pattern, paths in PARTS.items():
        lifted = lora.lift(
            model.apply,
            model.params,
            *args,
            pixels=inputs["pixel_values"],
            method=lora.LoRA(2),
            targets=(pattern,),
            strict=True,
        )
        assert {site.path for site in lifted.sites} == paths
        assert set(lifted.init(jax.random.key(0), model.params)) == paths


def test_images_without_as_many_tokens_are_no_numbers():
    """A compiled program cannot raise; it does not compute with the wrong image either."""
    embeds, features = jnp.zeros((1, 4, 2)), jnp.ones((2, 2))
    fits = place_features(embeds, jnp.array([[False, True, False, True]]), features)
    assert fits.tolist() == [[[0, 0], [1, 1], [0, 0], [1, 1]]]
    for marked in ([True, True, False, True], [False, True, False, False]):
        placed = place_features(embeds, jnp.array([marked]), features)
        assert np.isnan(placed).all(axis=-1).tolist() == [marked]


SIDES = st.integers(1, 5)


@settings(max_examples=30, deadline=None)
@given(
    squares=st.lists(st.tuples(SIDES, SIDES), min_size=1, max_size=3),
    merge=st.integers(1, 2),
    window=st.integers(1, 3),
)
def test_patches_look_at_those_of_their_window_and_of_their_image(squares, merge, window):
    grid = np.array([(1, height * merge, width * merge) for height, width in squares])
    plan = plan_vision(grid, merge=merge, window=window)
    # By definition: squares row by row, in each square its patches row by row.
    places, image = [], []
    for number, (height, width) in enumerate(squares):
        for top, left in np.ndindex(height, width):
            for down, right in np.ndindex(merge, merge):
                places.append((top * merge + down, left * merge + right))
                image.append(number)
    assert plan.places.tolist() == [list(place) for place in places]
    side = merge * window
    near = [
        (number, row // side, column // side)
        for number, (row, column) in zip(image, places, strict=True)
    ]
    for groups, slots, label in (
        (plan.images, plan.in_images, image),
        (plan.windows, plan.in_windows, near),
    ):
        members = [sorted(group[group >= 0].tolist()) for group in groups]
        wanted = [[i for i, one in enumerate(label) if one == kind] for kind in sorted(set(label))]
        assert sorted(members) == sorted(wanted)
        assert groups.reshape(-1)[slots].tolist() == list(range(len(places)))


def test_texts_with_more_or_fewer_tokens_than_the_images_need_are_refused():
    grid, ids = np.array([[1, 4, 4]]), np.array([[5, 9, 9, 9, 9, 6]])
    mask = np.ones_like(ids)
    positions = plan_positions(ids, mask, grid, image_id=9, merge=2)
    assert positions[:, 0].T.tolist() == [
        [0, 0, 0], [1, 1, 1], [1, 1, 2], [1, 2, 1], [1, 2, 2], [3, 3, 3]
    ]  # fmt: skip
    with pytest.raises(ValueError, match="have 4 tokens for images, but 2 images need 8"):
        plan_positions(ids, mask, np.repeat(grid, 2, axis=0), image_id=9, merge=2)
    with pytest.raises(ValueError, match="have 4 tokens for images, but 1 images need 2"):
        plan_positions(ids, mask, np.array([[1, 2, 4]]), image_id=9, merge=2)
    with pytest.raises(ValueError, match="have 3 tokens for images, but 1 images need 4"):
        plan_positions(ids[:, :4], mask[:, :4], grid, image_id=9, merge=2)


def test_videos_and_odd_sizes_are_refused():
    with pytest.raises(ValueError, match="2 long in time; videos are not supported"):
        plan_vision(np.array([[2, 4, 4]]), merge=2, window=2)
    with pytest.raises(ValueError, match="no multiples of 2"):
        plan_vision(np.array([[1, 4, 3]]), merge=2, window=2)


def test_images_that_do_not_fit_are_refused_before_anything_is_compiled():
    model, inputs = prompt("qwen2_5_vl")
    named = CASES["qwen2_5_vl"].keywords(model.config, inputs)
    ids = inputs["input_ids"]
    with pytest.raises(ValueError, match="pixels need a plan and positions"):
        model.apply(model.params, ids, pixels=named["pixels"])
    with pytest.raises(ValueError, match=r"\(70, 24\), but the plan and the model take \(76, 24\)"):
        model.apply(model.params, ids, **named | {"pixels": named["pixels"][:70]})
    model, inputs = prompt("llava")
    with pytest.raises(ValueError, match=r"\(3, 8, 7\) .*the model takes \(3, 8, 8\)"):
        model.apply(model.params, inputs["input_ids"], pixels=inputs["pixel_values"][..., :7])


def test_parts_follow_the_switches_of_the_whole():
    model, _ = prompt("llava")
    config = dataclasses.replace(model.config, scan=False, dtype="bfloat16")
    for part in (config.vision, config.language):
        assert not part.scan
        assert part.dtype == "bfloat16"
