"""Measures of a model: how often it is right, and how long it takes."""

from lora_jax.evaluation.intervals import Interval, difference_interval, mean_interval
from lora_jax.evaluation.latency import Latency, measure_latency
from lora_jax.evaluation.metrics import METRICS, accuracy, f1, matthews, pearson, spearman

__all__ = [
    "METRICS",
    "Interval",
    "Latency",
    "accuracy",
    "difference_interval",
    "f1",
    "matthews",
    "mean_interval",
    "measure_latency",
    "pearson",
    "spearman",
]
