"""Accelerators by name: what their makers publish of speed, memory and links.

All figures are peaks that no program reaches: they bound a time from below.

Sources, by name. Cloud TPU: the pages "TPU v5e", "TPU v5p" and "TPU v6e" of Google Cloud's
documentation; editions differ a little, and 819 GB/s of v5e and 1640 GB/s of v6e are the figures
given most often. GPUs, all of the SXM form: the data sheets "NVIDIA A100 80GB Tensor Core GPU",
"NVIDIA H100 Tensor Core GPU" and "NVIDIA H200 Tensor Core GPU"; the latter two give bfloat16 with
sparsity, 1,979 TFLOP/s, twice the dense figure. Their networks: the data sheets "NVIDIA DGX A100"
(eight adapters of 200 Gb/s for eight GPUs), "NVIDIA DGX H100" and "NVIDIA DGX H200" (400 Gb/s for
each GPU).
"""

from __future__ import annotations

import dataclasses

from lora_jax.nearest import nearest


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
    """One accelerator, and what joins it to others.

    Attributes:
      name: as in `CHIPS`.
      flops: peak operations a second in dense products of bfloat16.
      memory: bytes of HBM.
      memory_bandwidth: bytes a second from HBM.
      link_bandwidth: bytes a second that it sends (and at once receives) over the fast links: ICI,
        or NVLink. Makers often give the sum of both directions, twice this.
      linked: how many chips the fast links join: a pod of TPUs, a server of GPUs.
      network_bandwidth: bytes a second for each chip beyond those.
      device_kinds: `device_kind` of the JAX devices that it is.
    """

    name: str
    flops: float
    memory: float
    memory_bandwidth: float
    link_bandwidth: float
    linked: int
    network_bandwidth: float
    device_kinds: tuple[str, ...]


_ALL = (
    Chip(
        name="v5e",
        flops=197e12,
        memory=16e9,
        memory_bandwidth=819e9,
        link_bandwidth=200e9,  # 1600 Gb/s
        linked=256,
        network_bandwidth=6.4e12 / 8 / 256,  # 6.4 Tb/s a pod
        device_kinds=("TPU v5 lite", "TPU v5e"),
    ),
    Chip(
        name="v5p",
        flops=459e12,
        memory=95e9,
        memory_bandwidth=2765e9,
        link_bandwidth=600e9,  # 4800 Gb/s
        linked=8960,
        network_bandwidth=50e9 / 8,  # 50 Gb/s a chip
        device_kinds=("TPU v5", "TPU v5p"),
    ),
    Chip(
        name="v6e",
        flops=918e12,
        memory=32e9,
        memory_bandwidth=1640e9,
        link_bandwidth=448e9,  # 3584 Gb/s
        linked=256,
        network_bandwidth=25.6e12 / 8 / 256,  # 25.6 Tb/s a pod
        device_kinds=("TPU v6 lite", "TPU v6e"),
    ),
    Chip(
        name="A100",
        flops=312e12,
        memory=80e9,
        memory_bandwidth=2039e9,
        link_bandwidth=300e9,  # 600 GB/s in both directions
        linked=8,
        network_bandwidth=25e9,
        device_kinds=("NVIDIA A100-SXM4-80GB",),
    ),
    Chip(
        name="H100",
        flops=1979e12 / 2,
        memory=80e9,
        memory_bandwidth=3350e9,
        link_bandwidth=450e9,  # 900 GB/s in both directions
        linked=8,
        network_bandwidth=50e9,
        device_kinds=("NVIDIA H100 80GB HBM3",),
    ),
    Chip(
        name="H200",
        flops=1979e12 / 2,
        memory=141e9,
        memory_bandwidth=4800e9,
        link_bandwidth=450e9,  # 900 GB/s in both directions
        linked=8,
        network_bandwidth=50e9,
        device_kinds=("NVIDIA H200",),
    ),
)

CHIPS: dict[str, Chip] = {chip.name: chip for chip in _ALL}


def find_chip(name: str) -> Chip:
    """Finds a chip by its name.

    Args:
      name: a key of `CHIPS`, in any case.

    Returns:
      The chip.

    Raises:
      ValueError: it is unknown; the nearest names are listed.

    >>> find_chip("h100").memory / 1e9
    80.0
    """
    names = {known.lower(): known for known in CHIPS}
    if name.lower() not in names:
        close = [names[found] for found in nearest(name.lower(), names, 2)]
        raise ValueError(
            f"unknown chip {name!r}; nearest: {', '.join(close)}; known: {', '.join(CHIPS)}"
        )
    return CHIPS[names[name.lower()]]


def chip_of(device_kind: str) -> Chip | None:
    """The chip that a JAX device is; None if it is none of `CHIPS`.

    Args:
      device_kind: `jax.devices()[0].device_kind`.

    >>> chip_of("NVIDIA H100 80GB HBM3").name, chip_of("cpu")
    ('H100', None)
    """
    return next((chip for chip in _ALL if device_kind in chip.device_kinds), None)
