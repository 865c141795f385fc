"""Token rows: some rows of an embedding train, the table does not.

For new tokens: PEFT's `trainable_token_indices`. One row a token is kept, so an adapter stays
small, and where the table is tied to the output head the head's rows move too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from lora_jax.lifting import Delta, Factor, Weight
from lora_jax.methods.checks import check_dtype, check_sides


@dataclasses.dataclass(frozen=True)
class TokenRows:
    """Learns what is added to the rows of some tokens.

    Attributes:
      ids: of the tokens; at least one, none twice.
      dtype: of the rows; fp32 whatever the base's.

    >>> table = Weight("embed/embedding", (100, 32), "float32", (), (0,), (1,), uses=("gather",))
    >>> TokenRows(ids=(98, 99)).init(jax.random.key(0), table)["rows"].shape
    (2, 32)
    """

    ids: tuple[int, ...]
    _: dataclasses.KW_ONLY
    dtype: Any = jnp.float32

    dropout: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        check_dtype(self.dtype)
        object.__setattr__(self, "ids", tuple(int(i) for i in self.ids))
        if not self.ids or len(set(self.ids)) != len(self.ids) or min(self.ids) < 0:
            raise ValueError(f"ids must name at least one token, and none twice, not {self.ids}")

    def init(self, key: jax.Array, weight: Weight) -> dict[str, jax.Array]:  # noqa: ARG002
        """Zeros ``rows (n, *out)``."""
        check_sides(weight, "TokenRows")
        if not weight.is_looked_up or weight.batch or len(weight.ins) != 1:
            raise ValueError(f"{weight.path!r} is no table of rows that are looked up by token")
        if max(self.ids) >= weight.fan_in:
            raise ValueError(
                f"token {max(self.ids)} has no row in {weight.path!r}, which holds {weight.fan_in}"
            )
        return {"rows": jnp.zeros((len(self.ids), *weight.sizes(weight.outs)), self.dtype)}

    def delta(self, arrays: Mapping[str, Any], weight: Weight) -> Delta:
        """``ΔW[token, out] = Σ_n [token = ids[n]] · rows[n, out]``."""
        (vocabulary,) = weight.sizes(weight.ins)
        picks = jnp.arange(vocabulary)[:, None] == jnp.asarray(self.ids)
        which = Factor(picks.astype(self.dtype), (*weight.ins, "token"))
        return Delta(terms=((which, Factor(arrays["rows"], ("token", *weight.outs))),))

    def __str__(self) -> str:
        return f"TokenRows({len(self.ids)} tokens)"
