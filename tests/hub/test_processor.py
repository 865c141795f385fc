"""Texts with images in them become what the model takes, or one sentence says why not."""

import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import tokenizers

from lora_jax import hub
from lora_jax.models.decoder import DecoderConfig
from lora_jax.models.llava import LlavaConfig
from lora_jax.models.qwen2_5_vl import QwenVLConfig
from lora_jax.models.qwen2_5_vl_vision import QwenVisionConfig
from lora_jax.models.vision import VisionConfig

IMAGE, VIDEO = 6, 7
WORDS = {"<pad>": 0, "<s>": 1, "a": 2, "cat": 3, "and": 4, "dog": 5, "<image>": 6, "<video>": 7}
TEXT = DecoderConfig(dim=8, layers=1, vocab_size=9, pad_id=0, max_length=30)
LLAVA = LlavaConfig(
    vision=VisionConfig(dim=8, heads=2, layers=2, image_size=(8, 8), patch_size=(4, 4)),
    language=TEXT,
    image_id=IMAGE,
    depths=(1,),
)
QWEN = QwenVLConfig(
    vision=QwenVisionConfig(dim=8, heads=2, layers=1, out_dim=8, patch=4, full_layers=()),
    language=TEXT,
    image_id=IMAGE,
    video_id=VIDEO,
)


@pytest.fixture
def directory(tmp_path):
    """A tokenizer of words that puts <s> before every text."""
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(WORDS, unk_token="<pad>"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    made.add_special_tokens(["<pad>", "<s>", "<image>", "<video>"])
    made.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def processor(directory: Path, config, **fields):
    fields = {
        "llava": {"image_processor_type": "CLIPImageProcessor", "size": 8, "crop_size": 8},
        "qwen2_5_vl": {
            "image_processor_type": "Qwen2VLImageProcessor",
            "patch_size": 4,
            "min_pixels": 64,
            "max_pixels": 512,
        },
    }[config.model_type] | fields
    (directory / "preprocessor_config.json").write_text(json.dumps(fields))
    tokenizer = hub.Tokenizer(directory, pad_id=config.pad_id)
    return hub.Processor(tokenizer, hub.read_image_processor(directory), config)


def picture(height, width):
    return PIL.Image.fromarray(np.full((height, width, 3), height + width, np.uint8))


def test_the_token_of_an_image_is_repeated_for_each_of_its_features(directory):
    prompt = processor(directory, LLAVA)(
        ["a <image> cat", "<image> and <image>"], [picture(8, 8), picture(9, 9), picture(10, 10)]
    )
    assert prompt.ids.tolist() == [
        [1, 2, 6, 6, 6, 6, 3, 0, 0, 0],
        [1, 6, 6, 6, 6, 4, 6, 6, 6, 6],
    ]
    np.testing.assert_array_equal(prompt.mask, prompt.ids != 0)
    assert set(prompt.inputs) == {"pixels"}
    assert prompt.inputs["pixels"].shape == (3, 3, 8, 8)
    # The pictures are plain, so their order can be read off.
    assert (np.diff(prompt.inputs["pixels"][:, 0, 0, 0]) > 0).all()


def test_images_of_any_size_get_as_many_tokens_as_they_have_squares(directory):
    prompt = processor(directory, QWEN)(
        ["a <image> cat", "<image>"], [picture(8, 24), picture(16, 16)], side="left"
    )
    assert prompt.ids.tolist() == [[1, 2, 6, 6, 6, 3], [0, 1, 6, 6, 6, 6]]
    # One row of three squares at time 2, then two rows of two at time 1.
    assert prompt.inputs["positions"].tolist() == [
        [[0, 1, 2, 2, 2, 5], [0, 0, 1, 1, 1, 1]],
        [[0, 1, 2, 2, 2, 5], [0, 0, 1, 1, 2, 2]],
        [[0, 1, 2, 3, 4, 5], [0, 0, 1, 2, 1, 2]],
    ]
    assert prompt.inputs["pixels"].shape == (12 + 16, 3 * 2 * 4 * 4)
    assert len(prompt.inputs["plan"].places) == 28


def test_texts_without_images_need_no_pictures(directory):
    for config in (LLAVA, QWEN):
        prompt = processor(directory, config)(["a cat"], length=5)
        assert prompt.ids.tolist() == [[1, 2, 3, 0, 0]]
        assert prompt.inputs == {}


@pytest.mark.parametrize(
    ("texts", "count", "settings", "message"),
    [
        (["a cat"], 1, {}, "the texts have 0 image tokens, but 1 images were given"),
        (["<image>", "a <image>"], 1, {}, "have 2 image tokens, but 1 images"),
        (["a <image>"], 0, {}, "have 1 image tokens, but 0 images"),
        (["<video> cat"], 0, {}, "only images are supported"),
        (["<image> a cat"], 1, {"length": 6}, "a text has 7 tokens with its images, .* for 6"),
        (["<image> " * 8], 8, {}, "a text has 33 tokens with its images, .* for 30"),
        (["a"], 0, {"side": "top"}, "unknown side 'top'; known: right, left"),
    ],
)
def test_texts_and_pictures_that_do_not_fit_are_refused(directory, texts, count, settings, message):
    with pytest.raises(ValueError, match=message):
        processor(directory, QWEN)(texts, [picture(16, 16)] * count, **settings)


def test_processors_of_other_models_are_refused(directory):
    llava = processor(directory, LLAVA)
    with pytest.raises(ValueError, match="ImageProcessor does not serve a 'qwen2_5_vl'"):
        hub.Processor(llava.tokenizer, llava.images, QWEN)
    with pytest.raises(ValueError, match="'llama' reads no images"):
        hub.Processor(llava.tokenizer, llava.images, TEXT)
    with pytest.raises(ValueError, match=r"patches of .*'patch': 8.*takes .*'patch': 4"):
        processor(directory, QWEN, patch_size=8)


@pytest.mark.torch
@pytest.mark.filterwarnings("default")
def test_ids_and_pixels_are_those_of_the_original_processor(directory):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    ours = processor(directory, LLAVA)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(directory / "tokenizer.json"), pad_token="<pad>"
    )
    theirs = transformers.LlavaProcessor(
        transformers.CLIPImageProcessorPil.from_pretrained(directory),
        tokenizer,
        patch_size=4,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    texts, pictures = (
        ["a <image> cat", "<image> and <image>"],
        [picture(9, 13 + i) for i in range(3)],
    )
    wanted = theirs(text=texts, images=pictures, padding=True, return_tensors="np")
    found = ours(texts, pictures)
    np.testing.assert_array_equal(found.ids, wanted["input_ids"])
    np.testing.assert_array_equal(found.mask, wanted["attention_mask"])
    np.testing.assert_allclose(found.inputs["pixels"], wanted["pixel_values"], atol=1e-5)
