"""The same function lifted over the same weights, with other methods at its sites."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from lora_jax.lifting.lift import Lifted
from lora_jax.lifting.site import Method, Site, make_site


def relift(lifted: Lifted, sites: Sequence[Site], methods: Mapping[str, Method]) -> Lifted:
    """A `Lifted` of the same function with these sites, each with its new method."""
    new = [
        dataclasses.replace(make_site(site.weight, methods[site.path]), fallbacks=site.fallbacks)
        for site in sites
    ]
    return dataclasses.replace(lifted, sites=tuple(new))
