"""Every case, by name."""

from __future__ import annotations

from tests.lifting.cases import experts, falling_back, linen, loops, nnx, other_frameworks, plain

LAZY = {
    case.__name__: case
    for module in (linen, nnx, other_frameworks, plain, experts, loops)
    for case in module.CASES
}
FALLING_BACK = {case.__name__: case for case in falling_back.CASES}
ALL = LAZY | FALLING_BACK
