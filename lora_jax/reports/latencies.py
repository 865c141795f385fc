"""Tables of what models were timed at: medians, 95th percentiles, and times over a base's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lora_jax.evaluation import Interval, Latency, ResponseTimes
from lora_jax.reports.tables import Column, brackets


def milliseconds(latency: Latency) -> str:
    """Write a median for a column.

    >>> import numpy as np
    >>> milliseconds(Latency(np.array([0.0123, 0.0125, 0.0123])))
    '12.3'
    """
    return f"{1000 * latency.median:.3g}"


def response_table(
    times: Mapping[str, ResponseTimes], base: str
) -> tuple[list[dict[str, Any]], list[Column]]:
    """Make the table of models that were timed together, in milliseconds.

    Args:
      times: Of each, all with a TPOT or all without.
      base: The one that the others are compared with, by TPOT where there is one, else by TTFT.

    Returns:
      Its rows and its columns.

    >>> import numpy as np
    >>> slow = lambda factor: ResponseTimes(Latency(factor * np.array([0.1, 0.2])))
    >>> rows, columns = response_table({"w": slow(1), "adapted": slow(2)}, "w")
    >>> rows[1]["over"].mean, [column.title for column in columns]
    (2.0, ['model', 'TTFT p50', 'TTFT p95', 'over w'])
    """
    titles = {"first": "TTFT", "token": "TPOT"}
    timed = [field for field in titles if getattr(times[base], field) is not None]
    rows = []
    for name, of in times.items():
        row: dict[str, Any] = {"name": name}
        for field in timed:
            latency = getattr(of, field)
            row |= {f"{field}_p50": 1000 * latency.median, f"{field}_p95": 1000 * latency.p95}
        rows.append({**row, "over": Interval(*of.main.ratio_to(times[base].main))})
    columns = [
        Column(f"{field}_{p}", f"{titles[field]} {p}", "{:.3g}")
        for field in timed
        for p in ("p50", "p95")
    ]
    return rows, [Column("name", "model"), *columns, Column("over", f"over {base}", brackets())]
