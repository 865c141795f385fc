"""Many adapters over one base: all of them on the host, the most recent on the device."""

from __future__ import annotations

import collections
import functools
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

from lora_jax.adapters.low_rank import weights_by_path
from lora_jax.adapters.route import Routed, gather
from lora_jax.adapters.slots import Arrays, check_fits, fill, gains, host_arrays, slotted
from lora_jax.lifting import Lifted
from lora_jax.models import Unstacked, restack, unstack
from lora_jax.nearest import nearest

Factors = Mapping[str, Mapping[str, Any]]


class AdapterPool:
    """Adapters by name, any number on the host and a fixed number of slots on the device.

    Every adapter is padded to the pool's shapes with zeros, so that adding, replacing and evicting
    one is a copy and compiles nothing. Slot 0 is no adapter: rows without a name are the base.
    A full device gives up the slot that was used longest ago (LRU).

    Args:
      lifted: what the largest adapter may be: its targets are the union of all targets, with
        `LoRA` of the largest rank at each; with `DoRA` where adapters may be LoRA or DoRA.
      params: the frozen params, or their layers apart (`models.unstack`), as are then those of the
        rows' factors.
      slots: how many adapters the device holds at once, at least 1.

    Raises:
      ValueError: a site of another method, or no slots.

    >>> import jax.numpy as jnp
    >>> import lora_jax as lora
    >>> params, x = {"w": jnp.ones((4, 3))}, jnp.ones((2, 4))
    >>> lift = lambda rank: lora.lift(
    ...     lambda p, x: x @ p["w"], params, x, method=lora.LoRA(rank), targets="w")
    >>> small = lift(1)
    >>> pool = AdapterPool(lift(2), params, slots=4)
    >>> pool.add("fr", small, small.init(jax.random.key(0), params))
    >>> pool.routed(params, pool.factors(["fr", None]), x).shape
    (2, 3)
    """

    def __init__(self, lifted: Lifted, params: Any, *, slots: int = 8) -> None:
        if slots < 1:
            raise ValueError(f"slots = {slots}; a pool needs at least 1")
        self.routed = Routed(slotted(lifted))
        self.params = params
        self._host: dict[str, Arrays] = {}
        self._slot_of: collections.OrderedDict[str, int] = collections.OrderedDict()
        self._free = list(range(slots, 0, -1))
        self._pinned: collections.Counter[str] = collections.Counter()
        blank = fill(self._lifted, {})
        self._slots = jax.tree.map(lambda x: jax.numpy.stack([x] * (slots + 1)), blank)
        self._compile(blank)

    # -- adapters by name

    def add(self, name: str, lifted: Lifted, factors: Factors) -> None:
        """Adds an adapter, or replaces the one of that name, on the device too.

        Args:
          name: not empty.
          lifted: what the adapter was made for; `LoRA` or `DoRA` at each of its sites.
          factors: its factors.

        Raises:
          ValueError: it does not fit (another method, base or target, or too large a rank), or
            holds NaN or infinity.
        """
        if not name:
            raise ValueError("an adapter needs a name")
        check_fits(self._lifted, lifted, factors)
        arrays = host_arrays(lifted, factors)
        self._host[name] = self._with_gains(arrays)
        if name in self._slot_of:
            self._write(name, self._slot_of[name])

    def remove(self, name: str) -> None:
        """Forgets an adapter, on the host and on the device.

        Raises:
          ValueError: there is none of that name, or it is in use (`acquire`).
        """
        self.check_known(name)
        if self._pinned[name]:
            raise ValueError(
                f"adapter {name!r} is in use by {self._pinned[name]}: release it first"
            )
        del self._host[name]
        if name in self._slot_of:
            self._free.append(self._slot_of.pop(name))

    def check_known(self, name: str) -> None:
        """Raises `ValueError`, which has the nearest names, where there is no such adapter."""
        if name not in self._host:
            near = nearest(name, self._host, 3)
            known = f"; the nearest are {', '.join(map(repr, near))}" if near else ": it is empty"
            raise ValueError(f"the pool has no adapter {name!r}{known}")

    def __contains__(self, name: object) -> bool:
        return name in self._host

    def __iter__(self) -> Iterator[str]:
        return iter(self._host)

    def __len__(self) -> int:
        return len(self._host)

    # -- rows of a batch

    def rows(self, names: Sequence[str | None]) -> Int[np.ndarray, " batch"]:
        """The slot of each row's adapter, after those that were not there were brought in.

        Args:
          names: an adapter's name for each row, None for the base alone.

        Raises:
          ValueError: an unknown name, or more adapters than slots.
        """
        wanted = dict.fromkeys(name for name in names if name is not None)
        for name in wanted:
            self.check_known(name)
        held = [name for name, count in self._pinned.items() if count and name not in wanted]
        room = len(self._slot_of) + len(self._free) - len(held)
        if len(wanted) > room:
            raise ValueError(
                f"the batch has {len(wanted)} adapters, and the device room for {room}: give the "
                "pool more slots, or the batch fewer adapters"
            )
        for name in wanted:  # first, so that bringing in one evicts none of the others
            if name in self._slot_of:
                self._slot_of.move_to_end(name)
        return np.array([0 if name is None else self._bring(name) for name in names], np.int32)

    def factors(self, names: Sequence[str | None]) -> Any:
        """The factors of each row, for `routed`; arguments as `rows`."""
        rows = self.rows(names)  # first: it may replace the arrays of the slots
        return self._gather(self._slots, rows)

    def variables(self, names: Sequence[str | None]) -> dict[str, Any]:
        """What `routed.apply` takes: the params, and the factors of each row."""
        return {"params": self.params, "factors": self.factors(names)}

    @property
    def slots(self) -> Any:
        """The arrays on the device, slots first; valid until an adapter comes in (`gather`)."""
        return self._slots

    def acquire(self, name: str | None) -> int:
        """The slot of an adapter, which keeps it until as many calls of `release`.

        Raises:
          ValueError: an unknown name, or all slots are in use.
        """
        (slot,) = self.rows([name])
        if name is not None:
            self._pinned[name] += 1
        return int(slot)

    def release(self, name: str | None) -> None:
        """Ends one `acquire`."""
        if name is not None:
            self._pinned[name] -= 1

    # -- the device

    @property
    def _lifted(self) -> Lifted:
        return self.routed.lifted

    def _bring(self, name: str) -> int:
        if name not in self._slot_of:
            slot = self._free.pop() if self._free else self._evict()
            self._slot_of[name] = slot
            self._write(name, slot)
        self._slot_of.move_to_end(name)
        return self._slot_of[name]

    def _evict(self) -> int:
        oldest = next(name for name in self._slot_of if not self._pinned[name])
        return self._slot_of.pop(oldest)

    def _write(self, name: str, slot: int) -> None:
        filled = fill(self._lifted, self._host[name])
        self._slots = self._put(self._slots, filled, np.int32(slot))

    def _compile(self, blank: Arrays) -> None:
        """Compiles what later only runs: writing a slot, and DoRA's gains."""
        is_part = lambda leaf: isinstance(leaf, Unstacked)
        apart = any(map(is_part, jax.tree.leaves(self.params, is_leaf=is_part)))
        stacks = {site.path for site in self._lifted.sites if apart and site.weight.batch}
        self._gather = jax.jit(functools.partial(_gather, stacks))
        self._put = jax.jit(_put, donate_argnums=0).lower(self._slots, blank, np.int32(0)).compile()
        self._magnitudes = {path: own["gain"] for path, own in blank.items() if "gain" in own}
        if self._magnitudes:
            compute = jax.jit(functools.partial(_gains, self._lifted))
            self._gains = compute.lower(self.params, blank, self._magnitudes).compile()

    def _with_gains(self, arrays: Arrays) -> Arrays:
        """The arrays of an adapter with gains in place of DoRA's magnitudes."""
        own = {path: site.pop("m") for path, site in arrays.items() if "m" in site}
        if own:
            cast = {path: m.astype(self._magnitudes[path].dtype) for path, m in own.items()}
            filled = fill(self._lifted, arrays)
            found = self._gains(self.params, filled, {**self._magnitudes, **cast})
            for path in own:
                arrays[path]["gain"] = np.asarray(found[path], np.float32)
        return arrays


def _gather(stacks: Collection[str], slots: Any, rows: Any) -> Any:
    """The factors of each row; those of `stacks` with their layers apart."""
    return {
        path: unstack(own, ".*", axis=1) if path in stacks else own
        for path, own in gather(slots, rows).items()
    }


def _gains(lifted: Lifted, params: Any, filled: Any, magnitudes: Any) -> Any:
    return gains(lifted, weights_by_path(restack(params)), filled, magnitudes)


def _put(slots: Any, filled: Any, slot: Any) -> Any:
    return jax.tree.map(lambda held, new: held.at[slot].set(new), slots, filled)
