"""The pretrained decoder stories260K, and where its files are."""

import os
from pathlib import Path

NAME = "stories260K"
SHA256 = "b0a507e7ad0f626624f17112325e66691f9076d622e1d3274d103d00299f2696"


def find() -> str:
    """Finds the weights of stories260K, beside which lies its tokenizer tok512.bin.

    Returns:
      `stories260k/stories260K.bin` below the directory that the environment variable LORA_JAX_DATA
      names, or below the current one.
    """
    return str(Path(os.environ.get("LORA_JAX_DATA", "")) / "stories260k" / "stories260K.bin")
