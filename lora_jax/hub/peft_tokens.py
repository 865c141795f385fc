"""Trained rows of an embedding, PEFT's `trainable_token_indices`.

PEFT holds the rows themselves, we hold what was added to the base: so the base must be at hand
both ways.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lora_jax.hub.peft_config import find_end, names_besides
from lora_jax.hub.peft_modules import TABLE, Layout, Module
from lora_jax.hub.peft_whole import put_on, take_off
from lora_jax.lifting import Site
from lora_jax.methods import TokenRows

ROWS = "trainable_tokens_delta"
_INNER = ".token_adapter"


def is_rows(site: Site) -> bool:
    """Whether a site trains rows of tokens."""
    return isinstance(site.method, TokenRows)


def rows_key(module: Module) -> str:
    """What stands after the prefix in the key of the rows of an embedding."""
    return f"{module.name}{_INNER}.{ROWS}"


def table_of(name: str) -> str:
    """The name of the embedding whose wrapper bears a name."""
    return name.removesuffix(_INNER)


def write_rows(
    module: Module, site: Site, rows: np.ndarray, base: Mapping[str, Any] | None
) -> np.ndarray:
    """The trained rows of an embedding.

    Raises:
        ValueError: it is no embedding, or the base is not given.
    """
    if module.kind != TABLE:
        raise ValueError(f"PEFT trains rows of embeddings, but {module.name} is a {module.kind}")
    if base is None:
        raise ValueError(
            f"PEFT saves trained rows of {module.name} and not what was added to the base: give "
            "the base as params="
        )
    return put_on(np.asarray(base[site.path][np.asarray(_ids(site))]), rows)


def rows_field(layout: Layout, tables: Mapping[Module, Site]) -> dict[str, list[int]] | None:
    """The field trainable_token_indices."""
    found = {}
    for module, site in tables.items():
        end = find_end(module.name, names_besides(layout, {module.name}))
        found[end or module.name] = list(_ids(site))
    return found or None


def ids_of(fields: Mapping[str, Any], module: Module) -> list[int]:
    """The tokens of an embedding whose rows a file holds."""
    ids = fields.get("trainable_token_indices") or []
    if isinstance(ids, Mapping):
        ends = [end for end in ids if f".{module.name}".endswith(f".{end}")]
        ids = ids[ends[0]] if ends else []
    return [int(i) for i in ids]


def read_rows(
    fields: Mapping[str, Any],
    module: Module,
    site: Site,
    tensor: np.ndarray,
    base: Mapping[str, Any] | None,
) -> dict[str, np.ndarray]:
    """The arrays of a site that trains rows.

    Raises:
        ValueError: the tokens are others, or the base is not given.
    """
    ids = ids_of(fields, module)
    if tuple(ids) != _ids(site):
        raise ValueError(
            f"the file holds rows of the tokens {_few(ids)}, but the lift trains those of "
            f"{_few(_ids(site))} of {site.path!r}"
        )
    wanted = site.arrays["rows"]
    if tensor.shape != wanted.shape:
        raise ValueError(
            f"the rows of {module.name} have shape {tensor.shape}, but {wanted.shape} fits the base"
        )
    if base is None:
        raise ValueError(
            f"the file holds trained rows of {site.path!r}, of which the base is to be taken off: "
            "give the base as params="
        )
    before = np.asarray(base[site.path][np.asarray(ids)])
    return {"rows": take_off(before, tensor, wanted.dtype)}


def _ids(site: Site) -> tuple[int, ...]:
    assert isinstance(site.method, TokenRows)
    return site.method.ids


def _few(ids: Any) -> str:
    more = ", …" if len(ids) > 5 else ""
    return ", ".join(map(str, list(ids)[:5])) + more
