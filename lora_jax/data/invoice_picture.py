"""A picture of an invoice: one of several layouts, and as scanned: turned, blurred, speckled."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFilter
import PIL.ImageFont

SIZE = (620, 877)  # A4 at 75 dots an inch
MARGIN = 40

Invoice = Mapping[str, Any]


class _Page:
    """A sheet that is written on from the top."""

    def __init__(self) -> None:
        self.image = PIL.Image.new("L", SIZE, 255)
        self._draw = PIL.ImageDraw.Draw(self.image)

    def write(self, x: float, y: float, text: str, size: int = 13, *, right: bool = False) -> None:
        """Writes a line; `right` ends it at x."""
        font = PIL.ImageFont.load_default(size)
        self._draw.text((x, y), text, fill=0, font=font, anchor="ra" if right else "la")

    def rule(self, y: float) -> None:
        """Draws a line across the sheet."""
        self._draw.line((MARGIN, y, SIZE[0] - MARGIN, y), fill=90)


def _classic(page: _Page, invoice: Invoice) -> None:
    """Seller at the top left, numbers at the right, items in a table."""
    page.write(MARGIN, 40, invoice["seller"], 20)
    page.write(MARGIN, 68, invoice["seller_address"])
    page.write(SIZE[0] - MARGIN, 40, "INVOICE", 24, right=True)
    _details(page, invoice, SIZE[0] - MARGIN, 80, right=True)
    page.write(MARGIN, 150, "Bill to")
    page.write(MARGIN, 168, invoice["buyer"], 15)
    _table(page, invoice, 220)


def _letter(page: _Page, invoice: Invoice) -> None:
    """The buyer first, as in a letter; the seller at the foot."""
    page.write(MARGIN, 60, invoice["buyer"], 16)
    page.write(MARGIN, 140, f"Invoice {invoice['invoice_number']}", 22)
    _details(page, invoice, MARGIN, 172, right=False)
    _table(page, invoice, 260)
    page.rule(SIZE[1] - 70)
    page.write(MARGIN, SIZE[1] - 60, f"{invoice['seller']}, {invoice['seller_address']}", 12)


def _receipt(page: _Page, invoice: Invoice) -> None:
    """A narrow column, one line above the other."""
    page.write(150, 40, invoice["seller"], 18)
    page.write(150, 64, invoice["seller_address"], 12)
    _details(page, invoice, 150, 90, right=False)
    page.write(150, 168, f"Customer: {invoice['buyer']}")
    y = 200
    for item in invoice["items"]:
        page.write(150, y, item["description"])
        page.write(160, y + 17, f"{item['quantity']} x {item['unit_price']}", 12)
        page.write(470, y + 17, item["amount"], right=True)
        y += 42
    _sums(page, invoice, 470, y + 10)


LAYOUTS: Mapping[str, Callable[[_Page, Invoice], None]] = {
    "classic": _classic,
    "letter": _letter,
    "receipt": _receipt,
}


def draw_picture(
    invoice: Invoice, random: np.random.Generator, *, layout: str, noise: float
) -> bytes:
    """Draws an invoice.

    Args:
      invoice: from `draw_invoice`.
      random: the source of randomness of the noise.
      layout: a key of `LAYOUTS`.
      noise: from 0, a clean page, to 1, a bad scan.

    Returns:
      A JPEG.
    """
    page = _Page()
    LAYOUTS[layout](page, invoice)
    image = page.image
    if noise:
        angle = float(random.normal(0, 1.5 * noise))
        image = image.rotate(angle, PIL.Image.Resampling.BICUBIC, fillcolor=255)
        image = image.filter(PIL.ImageFilter.GaussianBlur(float(random.uniform(0, 0.8 * noise))))
        grain = random.normal(0, 30 * noise, (SIZE[1], SIZE[0]))
        image = PIL.Image.fromarray((np.asarray(image) + grain).clip(0, 255).astype(np.uint8))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=round(92 - 40 * noise))
    return file.getvalue()


def _details(page: _Page, invoice: Invoice, x: float, y: float, *, right: bool) -> None:
    names = {"Invoice no.": "invoice_number", "Date": "date", "Due": "due_date"}
    for number, (name, key) in enumerate(names.items()):
        page.write(x, y + 18 * number, f"{name}: {invoice[key]}", right=right)


def _table(page: _Page, invoice: Invoice, y: float) -> None:
    columns = {"quantity": 370, "unit_price": 470, "amount": SIZE[0] - MARGIN}
    page.write(MARGIN, y, "Description")
    for x, name in zip(columns.values(), ("Qty", "Price", "Amount"), strict=True):
        page.write(x, y, name, right=True)
    page.rule(y + 19)
    for item in invoice["items"]:
        y += 26
        page.write(MARGIN, y, item["description"])
        for key, x in columns.items():
            page.write(x, y, item[key], right=True)
    page.rule(y + 24)
    _sums(page, invoice, SIZE[0] - MARGIN, y + 34)


def _sums(page: _Page, invoice: Invoice, x: float, y: float) -> None:
    page.write(x, y, f"Subtotal: {invoice['subtotal']}", right=True)
    page.write(x, y + 20, f"Tax {invoice['tax_rate']}: {invoice['tax']}", right=True)
    total = f"Total {invoice['currency']}: {invoice['total']}"
    page.write(x, y + 42, total, 16, right=True)
