"""What a made-up invoice says: parties, dates and items whose sums agree, from a seed."""

from __future__ import annotations

import datetime as dt
from typing import Any

import numpy as np

COMPANIES = ("Northwind Supplies", "Harbour Tools", "Alder & Finch", "Blue Kiln", "Meridian Parts")
FORMS = ("Ltd", "GmbH", "Inc.", "S.A.", "AB")
STREETS = ("Mill Lane", "Station Road", "Kirchweg", "Rue du Port", "Elm Street", "Dock Street")
CITIES = ("Bristol", "Lübeck", "Nantes", "Turku", "Porto", "Graz")
ITEMS = (
    *("Steel bolts M8", "Copper wire 10 m", "Desk lamp", "Printer paper A4", "Oak shelf"),
    *("Garden hose", "Paint, white 5 l", "LED strip", "Work gloves", "Packing tape"),
)
CURRENCIES = ("EUR", "USD", "GBP")
TAXES = (0, 7, 19, 20)


def draw_invoice(random: np.random.Generator) -> dict[str, Any]:
    """Draws an invoice.

    Args:
      random: the source of randomness.

    Returns:
      An object as JSON has it: all values are texts, as they are printed.
    """
    pick = lambda choices: choices[random.integers(len(choices))]
    cents, items = 0, []
    for name in random.permutation(ITEMS)[: random.integers(1, 6)]:
        quantity, price = int(random.integers(1, 21)), int(random.integers(50, 20000))
        cents += quantity * price
        items.append(
            {
                "description": str(name),
                "quantity": str(quantity),
                "unit_price": _money(price),
                "amount": _money(quantity * price),
            }
        )
    rate = int(pick(TAXES))
    tax = round(cents * rate / 100)
    date = dt.date(2020, 1, 1) + dt.timedelta(days=int(random.integers(0, 2000)))
    return {
        "seller": f"{pick(COMPANIES)} {pick(FORMS)}",
        "seller_address": f"{random.integers(1, 200)} {pick(STREETS)}, {pick(CITIES)}",
        "buyer": f"{pick(COMPANIES)} {pick(FORMS)}",
        "invoice_number": f"{pick(('INV', 'R', 'F'))}-{random.integers(10000, 99999)}",
        "date": date.isoformat(),
        "due_date": (date + dt.timedelta(days=int(pick((14, 30, 60))))).isoformat(),
        "currency": pick(CURRENCIES),
        "items": items,
        "subtotal": _money(cents),
        "tax_rate": f"{rate}%",
        "tax": _money(tax),
        "total": _money(cents + tax),
    }


def _money(cents: int) -> str:
    """An amount with two decimals.

    >>> _money(123456)
    '1234.56'
    """
    return f"{cents // 100}.{cents % 100:02d}"
