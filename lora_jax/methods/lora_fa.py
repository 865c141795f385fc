"""LoRA-FA: LoRA whose A keeps its first random values; B alone learns.

Zhang et al., "LoRA-FA: Memory-Efficient Low-Rank Adaptation for Large Language Models Fine-Tuning",
arXiv 2308.03303. The input of A need not be kept for the backward pass: x·A is all B needs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp

from lora_jax.lifting import Lifted
from lora_jax.methods.lora import LoRA


@dataclasses.dataclass(frozen=True)
class LoRAFA(LoRA):
    """LoRA with a frozen A.

    Attributes: as `LoRA`.
    """

    frozen: ClassVar[tuple[str, ...]] = ("a",)

    def __str__(self) -> str:
        return super().__str__().replace("LoRA", "LoRA-FA", 1)


def project_gradients(
    lifted: Lifted, factors: Mapping[str, Any], gradients: Mapping[str, Any]
) -> dict[str, Any]:
    """The gradients by which B moves A·B nearest to the way full fine-tuning would go.

    ``∇B <- (AᵀA)⁻¹·∇B / s²``, with A of shape (in, rank): the least-squares solution, as in PEFT's
    `LoraFAOptimizer`. Put between the gradient and any optimiser.

    Args:
      lifted: sites that are not LoRA-FA's are left as they are.
      factors: with the frozen A.
      gradients: by path, with at least ``b``.

    Returns:
      Gradients of the same structure.
    """
    projected = dict(gradients)
    for site in lifted.sites:
        if not isinstance(site.method, LoRAFA):
            continue
        batch, own = site.weight.sizes(site.batch), gradients[site.path]
        rank = site.method.rank
        a = jnp.reshape(factors[site.path]["a"], (*batch, -1, rank))
        gram = jnp.einsum("...ir,...is->...rs", a, a) + 1e-8 * jnp.eye(rank)
        b = jnp.linalg.solve(gram, own["b"].reshape(*batch, rank, -1)) / site.method.scale**2
        projected[site.path] = {**own, "b": b.reshape(own["b"].shape).astype(own["b"].dtype)}
    return projected
