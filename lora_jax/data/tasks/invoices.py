"""Made-up invoices: pictures with JSON of all that they say, as many as wanted, from a seed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import overload

import numpy as np

from lora_jax.data.invoice_content import draw_invoice
from lora_jax.data.invoice_picture import LAYOUTS, draw_picture
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
    return TextTask(
        "invoices",
        about,
        _Invoices((seed, 0), train, noise, layouts),
        _Invoices((seed, 1), test, noise, layouts),
        metrics=("key_value_overlap", "anls"),
        max_new_tokens=768,
    )


class _Invoices(Sequence[TextRecord]):
    """Invoices that are drawn one at a time."""

    def __init__(
        self, seed: tuple[int, int], count: int, noise: float, layouts: Sequence[str]
    ) -> None:
        self._seed = seed
        self._count = count
        self._noise = noise
        self._layouts = layouts

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, row: int) -> TextRecord: ...
    @overload
    def __getitem__(self, row: slice) -> tuple[TextRecord, ...]: ...
    def __getitem__(self, row: int | slice) -> TextRecord | tuple[TextRecord, ...]:
        """Draws an invoice, or several."""
        if isinstance(row, slice):
            return tuple(self._draw(i) for i in range(*row.indices(self._count)))
        if not -self._count <= row < self._count:
            raise IndexError(f"invoice {row} of {self._count}")
        return self._draw(row % self._count)

    def _draw(self, row: int) -> TextRecord:
        random = np.random.default_rng((*self._seed, row))
        invoice = draw_invoice(random)
        layout = self._layouts[int(random.integers(len(self._layouts)))]
        return ask(
            QUESTION,
            json.dumps(invoice, ensure_ascii=False),
            fields={"invoice": invoice, "layout": layout},
            images=(draw_picture(invoice, random, layout=layout, noise=self._noise),),
            place=f"invoice {row}",
        )
