"""What was adapted, in words."""

from __future__ import annotations

from collections.abc import Sequence

from lora_jax.lifting.interpreter import Fallback
from lora_jax.lifting.site import Site


def fallback_sentence(fallback: Fallback) -> str:
    """Where a dense weight is used, and why."""
    return (
        f"{fallback.path!r} reaches {fallback.primitive!r} ({fallback.why}): "
        "the dense W + ΔW is used there, which is correct but slower"
    )


def few(paths: Sequence[str], most: int = 3) -> str:
    """The first few paths, quoted, and how many more there are."""
    shown = ", ".join(repr(path) for path in paths[:most])
    return shown + (f" and {len(paths) - most} more" if len(paths) > most else "")


def describe(sites: Sequence[Site], base: int) -> str:
    """A table of the sites, and the share of parameters that train."""
    header = ("weight", "shape", "batch / in / out", "method", "parameters", "used by")
    rows = [header, *(_describe_site(site) for site in sites)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    trainable = sum(site.num_parameters for site in sites)
    share = f"{trainable / base:.2%}" if base else "-"
    total = f"{len(sites)} weights adapted: {trainable:,} parameters beside {base:,} ({share})"
    return "\n".join([*lines, total])


def _describe_site(site: Site) -> tuple[str, ...]:
    weight = site.weight
    roles = " / ".join(
        "x".join(map(str, weight.sizes(axes))) or "-"
        for axes in (weight.batch, weight.ins, weight.outs)
    )
    dense_at = ", ".join(f"dense at {primitive}" for primitive, _ in site.fallbacks)
    used = ", ".join([*weight.uses, *([dense_at] if dense_at else [])]) or "-"
    shape = "x".join(map(str, weight.shape))
    return weight.path, shape, roles, str(site.method), f"{site.num_parameters:,}", used
