"""Checkpoints of models with images have been spelt in several ways; all are read alike."""

import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lora_jax.hub import load_model

FIXTURES = Path(__file__).parent.parent / "fixtures"

# As transformers holds them in memory since version 5, and saves them when told to.
NEW = {
    "llava": {
        r"^language_model\.lm_head": "lm_head",
        r"^language_model\.model\.": "model.language_model.",
        r"^(vision_tower|multi_modal_projector)": r"model.\1",
    },
    "qwen2_5_vl": {r"^model\.": "model.language_model.", r"^visual": "model.visual"},
    "vit_classification": {
        r"encoder\.layer\.": "layers.",
        r"attention\.attention\.query": "attention.q_proj",
        r"attention\.attention\.key": "attention.k_proj",
        r"attention\.attention\.value": "attention.v_proj",
        r"attention\.output\.dense": "attention.o_proj",
        r"intermediate\.dense": "mlp.fc1",
        r"output\.dense": "mlp.fc2",
    },
    "clip_vision": {r"^vision_model\.": ""},
}
# As the files on the hub have them.
PUBLISHED = {
    "llava": {r"^vision_tower\.": "vision_tower.vision_model."},
    "siglip_vision": {r"^": "vision_model."},
}


def respell(name, spellings, directory):
    """A copy of a recorded model with other names."""
    shutil.copy(FIXTURES / name / "config.json", directory)
    tensors = load_file(FIXTURES / name / "model.safetensors")
    found = {}
    for old, tensor in tensors.items():
        new = old
        for pattern, spelling in spellings.items():
            new = re.sub(pattern, spelling, new)
        found[new] = tensor
    assert set(found) != set(tensors)
    if name == "clip_vision":  # early files hold the numbers of positions besides
        found["vision_model.embeddings.position_ids"] = np.arange(3)
    save_file(found, directory / "model.safetensors")
    return load_model(directory)


@pytest.mark.parametrize(
    ("name", "spellings"),
    [*NEW.items(), *PUBLISHED.items()],
    ids=[*(f"{name}-new" for name in NEW), *(f"{name}-published" for name in PUBLISHED)],
)
def test_every_spelling_is_read_alike(name, spellings, tmp_path):
    wanted = load_model(FIXTURES / name).params
    found = respell(name, spellings, tmp_path).params
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    jax.tree.map(np.testing.assert_array_equal, found, wanted)
