"""scikit-learn's digits: 1,797 handwritten digits of 8 × 8 pixels, to be read off a picture.

They are the test set of a set of 43 people's digits; here a hash of their numbers holds a fifth
back.

Source: Kaynak 1995, "Methods of combining multiple classifiers and their applications to
handwritten digit recognition".
"""

from __future__ import annotations

import io

import numpy as np
import PIL.Image

from lora_jax.data.split import hold_out
from lora_jax.data.text_task import TextTask, ask

TEST_SHARE = 0.2
QUESTION = "Which digit is this?"


def digits(*, scale: int = 8) -> TextTask:
    """Makes the task.

    Args:
      scale: pixels of the picture for each of the digit's, in width and height.

    Returns:
      The task; its pictures are PNG.

    Raises:
      ValueError: `scale` is below 1.
    """
    if scale < 1:
        raise ValueError(f"scale is {scale}, but a pixel takes at least 1")
    from sklearn.datasets import load_digits  # takes a second to import

    data = load_digits()
    records = [
        ask(QUESTION, str(label), images=(_png(image, scale),), place=f"digit {number}")
        for number, (image, label) in enumerate(zip(data.images, data.target, strict=True))
    ]
    train, test = hold_out(records, lambda record: record.place, TEST_SHARE)
    about = "scikit-learn's handwritten digits, of which a hash of the numbers holds a fifth back."
    return TextTask("digits", about, train, test, metrics=("exact_match",), max_new_tokens=4)


def _png(image: np.ndarray, scale: int) -> bytes:
    """A picture of a digit, dark on white; the digits' own grey goes from 0 to 16."""
    grey = 255 - (image * (255 / 16)).round().astype(np.uint8)
    file = io.BytesIO()
    PIL.Image.fromarray(np.kron(grey, np.ones((scale, scale), np.uint8))).save(file, "PNG")
    return file.getvalue()
