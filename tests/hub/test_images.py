"""Pictures become the pixels that the original processors make of them."""

import json
import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from golden import images

from lora_jax.hub import read_image_processor

FIXTURES = Path(__file__).parent.parent / "fixtures"


def check(name, directory):
    expected = images.read(directory)
    pictures = images.pictures(images.CASES[name], expected["picture"])
    made = read_image_processor(directory)(pictures)
    if "image_grid_thw" in expected:
        np.testing.assert_array_equal(made.grid, expected["image_grid_thw"])
        made = made.pixels
    assert made.dtype == np.float32
    np.testing.assert_allclose(made, expected["pixel_values"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", images.CASES)
def test_pixels_are_those_recorded_of_the_original(name):
    check(name, FIXTURES / name)


@pytest.mark.torch
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", images.CASES)
def test_pixels_are_those_of_the_original_beside_it(name, tmp_path):
    pytest.importorskip("transformers", reason="transformers is not installed")
    images.record(images.CASES[name], tmp_path, seed=1)
    check(name, tmp_path)


@pytest.fixture
def write(tmp_path):
    def write(**fields):
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(fields))
        return tmp_path

    return write


def black(width, height, mode="RGB"):
    return PIL.Image.new(mode, (width, height))


def test_files_of_early_versions_mean_what_they_meant(write):
    """A size that is a number is the shorter edge for CLIP, and both sides for ViT."""
    clip = read_image_processor(
        write(feature_extractor_type="CLIPFeatureExtractor", size=10, do_center_crop=False)
    )
    assert clip([black(30, 20)]).shape == (1, 3, 10, 15)
    vit = read_image_processor(write(feature_extractor_type="ViTFeatureExtractor", size=10))
    assert vit([black(30, 20)]).shape == (1, 3, 10, 10)
    qwen = read_image_processor(
        write(image_processor_type="Qwen2_5_VLImageProcessor", min_pixels=784, max_pixels=4000)
    )
    assert qwen([black(300, 300)]).grid.tolist() == [[1, 4, 4]]


def test_a_file_of_the_whole_processor_holds_that_of_images(tmp_path):
    inner = {"image_processor_type": "ViTImageProcessorFast", "size": 6}
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": inner}))
    assert read_image_processor(tmp_path)([black(9, 9)]).shape == (1, 3, 6, 6)


def test_pictures_of_other_modes_are_refused_unless_they_are_to_be_converted(write):
    strict = read_image_processor(write(image_processor_type="ViTImageProcessor"))
    with pytest.raises(ValueError, match=r"mode 'CMYK'.*'RGB'.*convert\(\"RGB\"\)"):
        strict([black(9, 9, "CMYK")])
    with pytest.raises(ValueError, match=r"an image is a str; give a PIL\.Image\.Image"):
        strict(["cat.png"])
    lenient = read_image_processor(
        write(image_processor_type="ViTImageProcessor", do_convert_rgb=True)
    )
    assert lenient([black(9, 9, "CMYK")]).shape == (1, 3, 224, 224)


def test_pictures_that_come_out_unequal_are_not_stacked(write):
    clip = read_image_processor(
        write(image_processor_type="CLIPImageProcessor", size=10, do_center_crop=False)
    )
    with pytest.raises(ValueError, match=r"different sizes: \[\(10, 15\), \(10, 20\)\]"):
        clip([black(30, 20), black(40, 20)])
    with pytest.raises(ValueError, match="no images"):
        clip([])


def test_a_picture_of_extreme_shape_is_refused_as_patches(write):
    qwen = read_image_processor(write(image_processor_type="Qwen2VLImageProcessor"))
    with pytest.raises(ValueError, match="3 high and 900 wide"):
        qwen([black(900, 3)])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image_processor_type": "SamImageProcessor"}, "'Sam'; known: CLIP, Llava, ViT, Siglip"),
        ({"image_processor_type": "LlavaImageProcessor", "do_pad": True}, "do_pad"),
        ({"image_processor_type": "ViTImageProcessor", "resample": 9}, "resample 9"),
        ({"image_processor_type": "ViTImageProcessor", "size": {"max_height": 9}}, "max_height"),
        ({"image_processor_type": "Qwen2VLImageProcessor", "do_resize": False}, "do_resize"),
    ],
)
def test_what_is_not_computed_is_refused(write, fields, message):
    with pytest.raises(ValueError, match=message):
        read_image_processor(write(**fields))


def test_a_model_without_the_file_says_which_file_it_lacks(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"preprocessor_config\.json"):
        read_image_processor(tmp_path)
    shutil.copy(FIXTURES / "vit_images" / "preprocessor_config.json", tmp_path)
    assert read_image_processor(tmp_path).resize == (12, 20)
