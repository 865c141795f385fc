"""What a pass over a few batches finds out about each adapted weight: its inputs, its gradients.

Inputs are not reached by editing the model. Each use of a weight hands its input through a function
that returns it unchanged, and whose backward pass gives the moments of the rows as the "gradient"
of arrays of zeros that lie beside the weight like factors (`lifting/watch.py`). So one `jax.grad`
of any scalar of the outputs brings the moments out of scanned, rematerialised, jitted and branching
code, sums them over all uses of a weight, and needs no memory for activations beyond that of a
training step. The values of the true gradients on the way do not matter.

Second moments hold all that the decompositions need, and add up over batches without error: the
SVD of all inputs is theirs exactly, where an incremental SVD that truncates approaches it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lora_jax.lifting import Delta, Lifted, Site, Weight, path_name
from lora_jax.lifting.site import make_site
from lora_jax.lifting.watch import watch, zeros


class InputMoments(NamedTuple):
    """Sums over the rows that a weight was multiplied with.

    Attributes:
      rows: their number, ``(*batch)``.
      first: their sum, ``(*batch, *in)``.
      second: the sum of their outer products, ``(*batch, *in, *in)``.
      batches: number of batches.
    """

    rows: jax.Array
    first: jax.Array
    second: jax.Array
    batches: int


def gather_inputs(
    lifted: Lifted,
    params: Any,
    batches: Iterable[Sequence[Any]],
    *,
    mask: Callable[..., Any] | None = None,
    normalise: bool = False,
    **kwargs: Any,
) -> dict[str, InputMoments]:
    """Runs the base over batches and gathers the moments of every site's inputs, for EVA and CorDA.

    Memory: in² fp32 numbers for each site and layer, once for the sum and once for a batch.

    Args:
      lifted: its sites are looked at, whatever their methods; its factors are not needed.
      params: the frozen params.
      batches: for each the positional arguments of the function, arrays only; at least one batch.
      mask: ``mask(*args)`` gives what each row counts, such as 1 for tokens and 0 for padding, of
        shape (batch, length). Inputs that have other rows, such as one a text, count whole.
      normalise: divide the inputs of each batch by their largest value, as PEFT does for CorDA.
      **kwargs: further arguments of the function, the same for each batch; they may be static.

    Returns:
      The moments by path, for `Lifted.init`.

    Raises:
      ValueError: no batches, or a weight that is not multiplied with its inputs as a matrix (rows
        that are looked up, convolutions, grouped experts).
    """
    step = jax.jit(lambda params, args: _moments(lifted, params, args, mask, normalise, kwargs))
    total, count = _sum_over(batches, lambda args: step(params, tuple(args)))
    for path, found in total.items():
        if not bool((found["count"] > 0).all()):
            uses = next(site.uses for site in lifted.sites if site.path == path)
            raise ValueError(
                f"the inputs of {path!r} were not seen: they are gathered where a weight is a "
                f"matrix times activations, and this one is used by {', '.join(uses) or 'nothing'}"
            )
    return {
        path: InputMoments(found["count"], found["first"], found["second"], count)
        for path, found in total.items()
    }


def gather_gradients(
    lifted: Lifted,
    params: Any,
    batches: Iterable[Sequence[Any]],
    loss: Callable[..., Any],
) -> dict[str, jax.Array]:
    """The mean gradient of a loss at every site's W, for LoRA-GA.

    The gradients are those of the adapted weights themselves: fp32 arrays of their shapes, and no
    gradient of any other weight.

    Args:
      lifted: its sites are looked at, whatever their methods.
      params: the frozen params.
      batches: for each the further arguments of `loss`; at least one batch.
      loss: ``loss(params, *batch)``, a scalar.

    Returns:
      The gradients by path, for `Lifted.init`.

    Raises:
      ValueError: no batches, or a quantised weight.
    """
    flat, tree = jax.tree_util.tree_flatten_with_path(params)
    sites = {site.path for site in lifted.sites}
    weights = {path_name(path): leaf for path, leaf in flat if path_name(path) in sites}
    if missing := sorted(sites - set(weights)):
        raise ValueError(
            f"LoRA-GA needs gradients of {missing[0]!r}, and params hold no such array: gradients "
            "are taken at exact weights, not at quantised ones"
        )

    def of_weights(weights: Mapping[str, Any], params: Any, args: Any) -> Any:
        paths = (path_name(path) for path, _ in flat)
        leaves = zip(paths, jax.tree.leaves(params), strict=True)
        mixed = [weights.get(path, leaf) for path, leaf in leaves]
        return loss(jax.tree.unflatten(tree, mixed), *args)

    step = jax.jit(jax.grad(of_weights))
    wide = lambda grads: jax.tree.map(lambda leaf: leaf.astype(jnp.float32), grads)
    total, count = _sum_over(batches, lambda args: wide(step(weights, params, tuple(args))))
    return {path: gradient / count for path, gradient in total.items()}


def _sum_over(batches: Iterable[Any], step: Callable[[Any], Any]) -> tuple[Any, int]:
    total, count = None, 0
    for args in batches:
        found = step(args)
        total = found if total is None else jax.tree.map(jnp.add, total, found)
        count += 1
    if not count:
        raise ValueError("no batches: give at least one, as a tuple of arguments")
    return total, count


@dataclasses.dataclass(frozen=True)
class _Seeing:
    """A method that changes nothing and sees its weight's inputs."""

    mask: Any
    normalise: bool
    dropout: float = 0.0

    def init(self, key: jax.Array, weight: Weight) -> dict[str, jax.Array]:
        del key
        return zeros(weight)

    def delta(self, arrays: Mapping[str, Any], weight: Weight) -> Delta:
        return Delta(watch=watch(arrays, weight, self.mask, self.normalise))


def _moments(
    lifted: Lifted, params: Any, args: Any, mask: Any, normalise: bool, kwargs: Any
) -> dict[str, dict[str, jax.Array]]:
    rows = None if mask is None else mask(*args)
    method = _Seeing(rows, normalise)
    sites: tuple[Site, ...] = tuple(make_site(site.weight, method) for site in lifted.sites)
    seeing = dataclasses.replace(lifted, sites=sites, strict=False)

    def total(arrays: Any) -> Any:
        outputs = jax.tree.leaves(seeing(params, arrays, *args, **kwargs))
        return sum(
            leaf.astype(jnp.float32).sum()
            for leaf in outputs
            if jnp.issubdtype(leaf.dtype, jnp.floating)
        )

    return jax.grad(total)(seeing.init(jax.random.key(0), params))
