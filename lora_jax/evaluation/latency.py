"""How long compiled functions take, measured side by side so that noise hits them alike."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float
from scipy.special import bdtr


class Latency(NamedTuple):
    """Seconds of each timed call, in the order of the rounds."""

    seconds: Float[np.ndarray, " rounds"]

    @property
    def median(self) -> float:
        """Median, in seconds."""
        return float(np.median(self.seconds))

    @property
    def p95(self) -> float:
        """95th percentile, in seconds."""
        return float(np.percentile(self.seconds, 95))

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval of the median, in seconds."""
        return median_interval(self.seconds)

    @property
    def relative_error(self) -> float:
        """Half the interval over the median: 0.02 reads "± 2 %"."""
        low, high = self.interval
        return (high - low) / 2 / self.median

    def ratio_to(self, other: "Latency") -> tuple[float, float, float]:
        """Compare with a function that was measured in the same rounds.

        Args:
          other: Its latency. Calls of one round are paired, so drift of the machine cancels.

        Returns:
          The median of this time over that time, and the ends of its 95 % interval.

        Raises:
          ValueError: If the two have different numbers of rounds.
        """
        self._check_paired(other)
        ratios = self.seconds / other.seconds
        return float(np.median(ratios)), *median_interval(ratios)

    def p95_ratio_to(self, other: "Latency", samples: int = 2000) -> tuple[float, float, float]:
        """Compare the 95th percentiles, of which few rounds tell little.

        Args:
          other: A latency that was measured in the same rounds.
          samples: How often rounds are drawn anew for the interval.

        Returns:
          This percentile over that one, and the ends of the 95 % interval of the bootstrap over the
          rounds, which stay paired.

        Raises:
          ValueError: If the two have different numbers of rounds.

        Source: Efron and Tibshirani 1993, "An introduction to the bootstrap", section 13.3.
        """
        self._check_paired(other)
        rounds = len(self.seconds)
        drawn = np.random.default_rng(0).integers(rounds, size=(samples, rounds))
        first, second = (np.percentile(x.seconds[drawn], 95, axis=1) for x in (self, other))
        low, high = np.percentile(first / second, (2.5, 97.5))
        return self.p95 / other.p95, float(low), float(high)

    def _check_paired(self, other: "Latency") -> None:
        if len(self.seconds) != len(other.seconds):
            raise ValueError(
                f"{len(self.seconds)} rounds against {len(other.seconds)}: "
                "only latencies measured together can be paired"
            )


def measure_latency(
    calls: Mapping[str, Callable[[], Any]], *, rounds: int = 50, warmup: int = 3, seed: int = 0
) -> dict[str, Latency]:
    """Time several functions in turn: every round calls each of them once, in random order.

    Args:
      calls: Functions of no argument that return arrays, such as `partial(step, params, batch)`.
      rounds: How often each is timed, at least 1.
      warmup: Untimed calls of each beforehand; they compile, and fill the caches.
      seed: Of the random order.

    Returns:
      A latency for each name.

    Raises:
      ValueError: If there is nothing to call, `rounds` < 1 or `warmup` < 0.

    >>> times = measure_latency({"add": lambda: jax.numpy.ones(3) + 1}, rounds=5)
    >>> times["add"].median > 0
    True
    """
    if not calls or rounds < 1 or warmup < 0:
        raise ValueError(f"nothing to time: {len(calls)} calls, {rounds=}, {warmup=}")
    names = list(calls)
    for name in names:
        for _ in range(warmup):
            jax.block_until_ready(calls[name]())
    seconds = {name: np.empty(rounds) for name in names}
    for round_, name in turns(names, rounds, seed):
        _, seconds[name][round_] = timed(calls[name])
    return {name: Latency(seconds[name]) for name in names}


def turns(names: Sequence[str], rounds: int, seed: int = 0) -> Iterator[tuple[int, str]]:
    """Every name once a round, in random order.

    Args:
      names: Of what takes turns.
      rounds: How many there are.
      seed: Of the order.

    Yields:
      The number of the round, and a name.

    >>> sorted(turns(["a", "b"], 2))
    [(0, 'a'), (0, 'b'), (1, 'a'), (1, 'b')]
    """
    order = np.random.default_rng(seed)
    for round_ in range(rounds):
        for name in order.permutation(list(names)).tolist():
            yield round_, name


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """Calls a function of no argument.

    Returns:
      What it returns, once that is computed, and the seconds it took.
    """
    start = time.perf_counter()
    result = jax.block_until_ready(call())
    return result, time.perf_counter() - start


def median_interval(values: Float[np.ndarray, " samples"]) -> tuple[float, float]:
    """95 % confidence interval of a median, whatever the distribution.

    Args:
      values: Independent values, at least one.

    Returns:
      The narrowest pair of order statistics, as far from either end, that holds the median at
      least 95 times in 100; of fewer than six values, the extremes.

    Source: Conover 1999, "Practical nonparametric statistics", section 3.2.

    >>> median_interval(np.arange(100.0))
    (39.0, 60.0)
    """
    ordered = np.sort(values)
    count = len(ordered)
    # The number of values below the median is binomial with p = 1/2.
    unlikely = int(np.sum(bdtr(np.arange(count), count, 0.5) <= 0.025))
    low = max(unlikely - 1, 0)
    return float(ordered[low]), float(ordered[count - 1 - low])
