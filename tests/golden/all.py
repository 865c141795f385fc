"""Every case, by the name of its folder under tests/fixtures."""

from golden import decoders, encoders, vision
from golden.case import Case

CASES: dict[str, Case] = {**encoders.CASES, **decoders.CASES, **vision.CASES}
