"""Which software and machine made a result."""

import os
import platform

import jax

from lora_jax.training.identity import versions


def installed_versions() -> dict[str, str]:
    """List the versions that a result depends on, and the devices it ran on.

    Returns:
      A version for "python" and each package, and "devices".

    >>> installed_versions()["jax"] == jax.__version__
    True
    """
    devices = jax.devices()
    kind = f"{len(devices)} × {devices[0].device_kind}"
    return {
        **versions(),
        "devices": f"{kind} ({os.cpu_count()} CPU cores, {platform.machine()})",
    }
