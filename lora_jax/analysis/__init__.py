"""What adapters learnt, what several runs say together, and what a compiled step will take."""

from lora_jax.analysis.amplification import Amplification, amplification
from lora_jax.analysis.budgets import Fit, rank_within_latency, ranks_of_equal_parameters
from lora_jax.analysis.change import Change, decompose, directions
from lora_jax.analysis.chips import CHIPS, Chip, chip_of, find_chip
from lora_jax.analysis.intruders import count_intruders
from lora_jax.analysis.pareto import (
    Candidate,
    Recommendation,
    pareto_front,
    recommend,
    recommend_within,
)
from lora_jax.analysis.spectrum import energy_rank, entropy_rank, stable_rank
from lora_jax.analysis.subspace import (
    above_chance,
    chance_deviation,
    chance_level,
    principal_angles,
    similarity,
)

__all__ = [
    "CHIPS",
    "Amplification",
    "Candidate",
    "Change",
    "Chip",
    "Fit",
    "Recommendation",
    "above_chance",
    "amplification",
    "chance_deviation",
    "chance_level",
    "chip_of",
    "count_intruders",
    "decompose",
    "directions",
    "energy_rank",
    "entropy_rank",
    "find_chip",
    "pareto_front",
    "principal_angles",
    "rank_within_latency",
    "ranks_of_equal_parameters",
    "recommend",
    "recommend_within",
    "similarity",
    "stable_rank",
]
