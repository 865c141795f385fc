"""What the results of several runs say together."""

from lora_jax.analysis.pareto import Candidate, Recommendation, pareto_front, recommend

__all__ = ["Candidate", "Recommendation", "pareto_front", "recommend"]
