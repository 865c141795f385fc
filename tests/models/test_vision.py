"""Towers of images and texts: their vectors, and what they refuse."""

from pathlib import Path

import jax
import numpy as np
import pytest
from golden.case import QUICK, error

from lora_jax import models
from lora_jax.hub import load_model
from lora_jax.models.vision import VisionConfig

FIXTURES = Path(__file__).parent.parent / "fixtures"


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_logits_are_the_products_of_vectors_of_length_one(name):
    model = load_model(FIXTURES / name, scan=False)
    recorded = np.load(FIXTURES / name / "expected.npz")
    ids, mask, pixels = (recorded[k] for k in ("input_ids", "attention_mask", "pixel_values"))

    @jax.jit
    def embed(params):
        images = model.apply(params, pixels=pixels, outputs="images")
        return images, model.apply(params, ids, mask, outputs="texts")

    images, texts = embed.lower(model.params).compile(compiler_options=QUICK)(model.params)
    for vectors in (images, texts):
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    logits = images @ texts.T * np.exp(model.params["logit_scale"])
    logits += model.params.get("logit_bias", 0)
    assert error(logits, recorded["expected"]) < 1e-5


def test_inputs_that_are_missing_or_too_long_are_refused():
    model = load_model(FIXTURES / "clip")
    with pytest.raises(ValueError, match="pixels are missing"):
        model.apply(model.params, np.ones((1, 3), np.int32))
    with pytest.raises(ValueError, match="ids are missing"):
        model.apply(model.params, outputs="texts")
    with pytest.raises(ValueError, match="unknown outputs 'both'; known: logits, images, texts"):
        model.apply(model.params, np.ones((1, 3), np.int32), outputs="both")
    with pytest.raises(ValueError, match="10 tokens long, but the model has positions for 9"):
        model.apply(model.params, np.ones((1, 10), np.int32), outputs="texts")


def test_images_of_another_size_are_refused():
    model = load_model(FIXTURES / "vit_classification", head="classification")
    with pytest.raises(ValueError, match=r"\(3, 12, 8\) .*the model takes \(3, 12, 12\)"):
        model.apply(model.params, np.ones((1, 3, 12, 8), np.float32))


def test_a_vector_needs_the_pooler():
    model = load_model(FIXTURES / "vit_pooled")
    assert "pooler" not in model.params
    with pytest.raises(ValueError, match="pooler=True"):
        model.apply(model.params, np.ones((1, 3, 8, 12), np.float32), outputs="pooled")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image_size": (224, 12)}, r"\(224, 12\) is less than a patch \(16, 16\)"),
        ({"class_token": False}, "need a class token"),
        ({"pooling": "max"}, "unknown pooling 'max'; known: class, dense, attention"),
        ({"head": "regression"}, "unknown head 'regression'; known: classification"),
        ({"dim": 10, "heads": 4}, "dim 10 is not a multiple of heads 4"),
    ],
)
def test_configs_that_contradict_themselves_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        VisionConfig(**fields)


def test_a_tower_is_built_without_allocating_it():
    shapes = models.build(VisionConfig(layers=5, dim=64, heads=4, ff_dim=128)).shapes
    assert shapes["layers"]["fc1"]["kernel"].shape == (5, 64, 128)
    assert shapes["patches"]["kernel"].shape == (3 * 16 * 16, 64)
    assert shapes["positions"]["embedding"].shape == (14 * 14 + 1, 64)
