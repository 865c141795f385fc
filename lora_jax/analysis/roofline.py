"""How long a step takes at least, on a chip that reaches its published peaks.

Williams, Waterman and Patterson, "Roofline: an insightful visual performance model for multicore
architectures", 2009, with a third roof for what devices send each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from lora_jax.analysis.chips import Chip
from lora_jax.analysis.collectives import Collective
from lora_jax.analysis.memory import Memory
from lora_jax.analysis.products import Products


class Roofline(NamedTuple):
    """Seconds of a step on one chip, and what they go to.

    Attributes:
      chip: its name.
      compute: of matrix products, at the peak of bfloat16.
      memory: of reading and writing what they take and make.
      interconnect: of sending what collectives send.
      seconds: the longest of the three: all else is done meanwhile.
      unoverlapped: their sum: nothing is done meanwhile.
      bound: the name of the longest.
      used: the peak of memory, as a part of what the chip has; above 1 the step does not fit.
    """

    chip: str
    compute: float
    memory: float
    interconnect: float
    seconds: float
    unoverlapped: float
    bound: str
    used: float


def roofline(chip: Chip, work: Products, sent: Sequence[Collective], memory: Memory) -> Roofline:
    """Estimates a step on a chip.

    Args:
      chip: the chip.
      work: the matrix products of one device.
      sent: its collectives.
      memory: its memory.

    Returns:
      The three times and the longest.
    """
    terms = {
        "compute": work.flops / chip.flops,
        "memory": work.nbytes / chip.memory_bandwidth,
        "interconnect": sum(one.sent / bandwidth(chip, one.devices) for one in sent),
    }
    bound = max(terms, key=lambda name: terms[name])
    return Roofline(
        chip.name,
        **terms,
        seconds=terms[bound],
        unoverlapped=sum(terms.values()),
        bound=bound,
        used=memory.peak / chip.memory,
    )


def bandwidth(chip: Chip, devices: Sequence[int]) -> float:
    """Bytes a second that each device of a group can send to the next.

    Chips are joined by fast links in the order of the mesh, `chip.linked` at a time. A ring that
    leaves such a set shares the network of its members in there: they send in parallel.

    >>> from lora_jax.analysis.chips import CHIPS
    >>> [bandwidth(CHIPS["H100"], range(n)) / 1e9 for n in (8, 16)]
    [450.0, 400.0]
    >>> bandwidth(CHIPS["H100"], (0, 8)) / 1e9
    50.0
    """
    home = [device for device in devices if device // chip.linked == devices[0] // chip.linked]
    if len(home) == len(devices):
        return chip.link_bandwidth
    return min(chip.link_bandwidth, len(home) * chip.network_bandwidth)
