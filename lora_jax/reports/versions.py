"""Which software and machine made a result."""

import os
import platform
from importlib import metadata

import jax

PACKAGES = ("lora_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def installed_versions() -> dict[str, str]:
    """List the versions that a result depends on, and the devices it ran on.

    Returns:
      A version for "python" and each package that is installed, and "devices".

    >>> installed_versions()["jax"] == jax.__version__
    True
    """
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    devices = jax.devices()
    kind = f"{len(devices)} × {devices[0].device_kind}"
    versions["devices"] = f"{kind} ({os.cpu_count()} CPU cores, {platform.machine()})"
    return versions
