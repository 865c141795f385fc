"""What a server has done and is doing, in the text form of Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)


class Metrics:
    """Counters of requests and tokens, and gauges that are read when they are asked for.

    Args:
      gauges: what each is called, what it says, and a function that gives its value.
    """

    def __init__(self, gauges: Mapping[str, tuple[str, Callable[[], float]]]) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "lora_jax_requests",
            "Requests that were answered, by route and status of HTTP.",
            ("route", "status"),
            registry=self.registry,
        )
        self.tokens = Counter(
            "lora_jax_tokens",
            "Tokens of prompts that were read, and new ones that were written.",
            ("kind",),
            registry=self.registry,
        )
        self.first_token = Histogram(
            "lora_jax_first_token_seconds",
            "From a request to the first token of its text, waiting included.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.whole_text = Histogram(
            "lora_jax_text_seconds",
            "From a request to the last token of its text.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        for name, (meaning, read) in gauges.items():
            gauge = Gauge(f"lora_jax_{name}", meaning, registry=self.registry)
            gauge.set_function(read)

    def text(self) -> bytes:
        """All of them as Prometheus reads them."""
        return generate_latest(self.registry)

    def totals(self) -> dict[str, float]:
        """The counters, each summed over its labels."""
        found: dict[str, float] = {}
        for family in self.registry.collect():
            for sample in family.samples:
                if sample.name.endswith(("_total", "_count")):
                    found[sample.name] = found.get(sample.name, 0) + sample.value
        return found
