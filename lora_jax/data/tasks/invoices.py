"""Made-up invoices: pictures with JSON of all that they say, as many as wanted, from a seed."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from lora_jax.data.invoice_content import draw_invoice
from lora_jax.data.invoice_picture import LAYOUTS, draw_picture
from lora_jax.data.lazy_records import LazyRecords
from lora_jax.data.names import known
from lora_jax.data.text_task import TextRecord, TextTask, ask

QUESTION = "Answer with a JSON object of what the invoice says."


def invoices(
    *,
    train: int = 400,
    test: int = 100,
    seed: int = 0,
    noise: float = 0.3,
    layouts: tuple[str, ...] = tuple(LAYOUTS),
) -> TextTask:
    """Makes the task. An invoice is drawn when it is asked for, and always the same.

    Args:
      train: invoices to train on.
      test: invoices to test on.
      seed: of all of them.
      noise: from 0, clean pages, to 1, bad scans.
      layouts: the layouts to choose from: "classic", "letter", "receipt".

    Returns:
      The task. `fields["invoice"]` is the answer as an object.

    Raises:
      ValueError: there is nothing to draw, noise beyond [0, 1], or an unknown layout.
    """
    if min(train, test) < 1 or not layouts:
        raise ValueError(f"{train=} and {test=} must be at least 1, with at least one layout")
    if not 0 <= noise <= 1:
        raise ValueError(f"noise is {noise}, not between 0 and 1")
    for layout in layouts:
        known(layout, LAYOUTS, "layout")
    about = f"Invoices drawn with the seed {seed} and noise of {noise:g}."
    draw = lambda side: lambda row: _draw((seed, side), row, noise, layouts)
    return TextTask(
        *("invoices", about, LazyRecords(train, draw(0)), LazyRecords(test, draw(1))),
        metrics=("key_value_overlap", "anls"),
        max_new_tokens=768,
    )


def _draw(seed: tuple[int, int], row: int, noise: float, layouts: Sequence[str]) -> TextRecord:
    random = np.random.default_rng((*seed, row))
    invoice = draw_invoice(random)
    layout = layouts[int(random.integers(len(layouts)))]
    return ask(
        QUESTION,
        json.dumps(invoice, ensure_ascii=False),
        fields={"invoice": invoice, "layout": layout},
        images=(draw_picture(invoice, random, layout=layout, noise=noise),),
        place=f"invoice {row}",
    )
