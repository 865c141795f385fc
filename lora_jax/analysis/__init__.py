"""What the results of several runs say together, and what a compiled step will take."""

from lora_jax.analysis.chips import CHIPS, Chip, chip_of, find_chip
from lora_jax.analysis.pareto import Candidate, Recommendation, pareto_front, recommend

__all__ = [
    "CHIPS",
    "Candidate",
    "Chip",
    "Recommendation",
    "chip_of",
    "find_chip",
    "pareto_front",
    "recommend",
]
