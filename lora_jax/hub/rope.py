"""Rotary positions as config.json describes them, in its newer and its older form."""

import math
from collections.abc import Mapping
from typing import Any

from lora_jax.models.rope import SCALINGS, Rope


def read_rope(fields: Mapping[str, Any]) -> Rope:
    """Reads `rope_parameters`, or `rope_theta` and `rope_scaling`, of a config.json.

    Args:
        fields: the content of config.json.

    Returns:
        The rotary positions.

    Raises:
        ValueError: a kind of scaling that is not supported.
    """
    found = dict(fields.get("rope_parameters") or fields.get("rope_scaling") or {})
    kind = found.get("rope_type") or found.get("type") or "default"
    theta = found.get("rope_theta") or fields.get("rope_theta", 10_000.0)
    if found.get("partial_rotary_factor", fields.get("partial_rotary_factor") or 1) != 1:
        raise ValueError("partial_rotary_factor is not 1; only whole heads are turned")
    if kind in ("default", "dynamic", "mrope"):
        # "dynamic" changes nothing up to max_position_embeddings, and longer texts are refused.
        return Rope(theta=theta)
    if kind not in SCALINGS:
        raise ValueError(f"rope_type {kind!r} is not supported; supported: {', '.join(SCALINGS)}")
    length = fields.get("max_position_embeddings", 0)
    original = found.get("original_max_position_embeddings") or length
    factor = found.get("factor") or length / original
    rope = {"theta": theta, "scaling": kind, "factor": factor, "original_length": original}
    if kind == "llama3":
        rope |= {"low": found["low_freq_factor"], "high": found["high_freq_factor"]}
    if kind == "yarn":
        rope |= {
            "beta_fast": found.get("beta_fast") or 32.0,
            "beta_slow": found.get("beta_slow") or 1.0,
            "magnitude": _magnitude(found, factor),
            "truncate": found.get("truncate", True),
        }
    return Rope(**rope)


def _magnitude(found: Mapping[str, Any], factor: float) -> float | None:
    if found.get("attention_factor") is not None:
        return found["attention_factor"]
    if found.get("mscale") and found.get("mscale_all_dim"):
        return _mscale(factor, found["mscale"]) / _mscale(factor, found["mscale_all_dim"])
    return None


def _mscale(factor: float, weight: float) -> float:
    return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0
