"""What a model says, how often it is right, and how long it takes."""

from lora_jax.evaluation.answers import answer, score_answers
from lora_jax.evaluation.beam import BeamSearch
from lora_jax.evaluation.bootstrap import bootstrap_interval
from lora_jax.evaluation.engine import Engine, NewToken, QueueFullError, TextRequest
from lora_jax.evaluation.generate import Generated, generate
from lora_jax.evaluation.growing_text import GrowingText
from lora_jax.evaluation.intervals import (
    Interval,
    difference_interval,
    mean_interval,
    paired_interval,
)
from lora_jax.evaluation.latency import Latency, measure_latency
from lora_jax.evaluation.metrics import (
    METRICS,
    TextMetric,
    accuracy,
    f1,
    f1_macro,
    f1_weighted,
    find_metric,
    matthews,
    pearson,
    spearman,
)
from lora_jax.evaluation.response import ResponseTimes, measure_responses
from lora_jax.evaluation.sampling import Sampling
from lora_jax.evaluation.texts import Completion, generate_text

__all__ = [
    "METRICS",
    "BeamSearch",
    "Completion",
    "Engine",
    "Generated",
    "GrowingText",
    "Interval",
    "Latency",
    "NewToken",
    "QueueFullError",
    "ResponseTimes",
    "Sampling",
    "TextMetric",
    "TextRequest",
    "accuracy",
    "answer",
    "bootstrap_interval",
    "difference_interval",
    "f1",
    "f1_macro",
    "f1_weighted",
    "find_metric",
    "generate",
    "generate_text",
    "matthews",
    "mean_interval",
    "measure_latency",
    "measure_responses",
    "paired_interval",
    "pearson",
    "score_answers",
    "spearman",
]
