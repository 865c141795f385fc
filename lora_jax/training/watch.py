"""What each step left to read: rows for the log and the sinks, the progress line, and alarm.

Read one step behind, so that the device never waits for the host.
"""

import contextlib
import math
import time
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jaxtyping import PyTree

from lora_jax.lifting import path_name
from lora_jax.training.metrics import MetricsLog, Row
from lora_jax.training.progress import Progress
from lora_jax.training.sinks import Sink

OnNonfinite = Literal["stop", "skip"]

MOST_IN_A_ROW = 50  # steps left out one after the other before even `skip` gives up


class _Pending(NamedTuple):
    step: int
    metrics: Mapping[str, Any]
    batch: PyTree


class Watch:
    """Reads the metrics of steps and evaluations, and passes them on."""

    def __init__(
        self,
        log: MetricsLog,
        progress: Progress,
        sinks: Sequence[Sink] = (),
        on_nonfinite: OnNonfinite = "stop",
        workdir: Path | None = None,
        counts: Mapping[str, Any] = types.MappingProxyType({}),
    ) -> None:
        """Starts the clock of the first step.

        Args:
          log: takes every row.
          progress: shows every step.
          sinks: take every row too; opened.
          on_nonfinite: what to do about a step that the optimiser's guard left out, or whose loss
            is not finite: `stop` the run, or `skip` the step.
          workdir: where the batches of such steps are saved.
          counts: of steps left out before this start (`guard.count_skipped`).
        """
        self._log, self._progress, self._sinks = log, progress, sinks
        self._on_nonfinite, self._workdir = on_nonfinite, workdir
        self._skipped, self._in_a_row = int(counts.get("skipped", 0)), 0
        self._pending: _Pending | None = None
        self.restart()

    def push(self, step: int, metrics: Mapping[str, Any], batch: PyTree) -> None:
        """Takes what a step returned, still being computed, and reads the step before it."""
        self.flush()
        self._pending = _Pending(step, metrics, batch)

    def flush(self) -> None:
        """Reads what is left to read.

        Raises:
          FloatingPointError: a step was not sound, and it is not to be skipped.
        """
        if self._pending is None:
            return
        (step, on_device, batch), self._pending = self._pending, None
        metrics = jax.device_get(dict(on_device))
        skipped = int(metrics.pop("skipped", 0))
        left_out, self._skipped = skipped > self._skipped, skipped
        if left_out or not math.isfinite(metrics["loss"]):
            self._alarm(step, metrics, batch, left_out)
        else:
            self._in_a_row = 0
        metrics |= {"skipped": skipped} if skipped else {}
        metrics["seconds"] = time.perf_counter() - self._since
        metrics["tokens"] = int(metrics.get("tokens", count_tokens(batch)))
        self.restart()
        self._progress.update(step, self._write(step, metrics))

    def evaluation(self, step: int, values: Mapping[str, float]) -> None:
        """Passes on what an evaluation found."""
        self._write(step, {f"eval/{name}": value for name, value in values.items()})
        named = [f"{name} {value:.4g}" for name, value in values.items()]
        self._progress.note(" | ".join([f"step {step}", *named]))

    @contextlib.contextmanager
    def apart(self) -> Iterator[None]:
        """Holds what is not a step: its time counts for none."""
        self.flush()
        yield
        self.restart()

    def restart(self) -> None:
        """Starts the clock of the next step."""
        self._since = time.perf_counter()

    def _write(self, step: int, values: Mapping[str, Any]) -> Row:
        row = self._log.write(step, values)
        for sink in self._sinks:
            sink.write(row)
        return row

    def _alarm(self, step: int, metrics: Mapping[str, Any], batch: PyTree, left_out: bool) -> None:
        self._in_a_row += 1
        found = _reason(metrics) + f" at step {step} (grad_norm {metrics['grad_norm']:.4g})"
        saved = _save_batch(self._workdir, step, batch)
        if left_out and self._on_nonfinite == "skip" and self._in_a_row < MOST_IN_A_ROW:
            self._progress.note(f"{found}: left out. {saved}".strip())
            return
        again = f", the last of {self._in_a_row} in a row" if self._in_a_row > 1 else ""
        raise FloatingPointError(
            f"{found}{again}. {saved} Lower the learning rate, warm up for longer, clip harder, or "
            f"leave such steps out: on_nonfinite = 'skip'."
        )


def count_tokens(batch: PyTree) -> Any:
    """Counts the real tokens of a batch.

    Those of its `mask`, or of its `segments` that are not padding; its rows if it has neither.
    """
    if isinstance(batch, Mapping):
        for name in ("mask", "segments"):
            if name in batch:
                return (batch[name] != 0).sum()
    return len(jax.tree.leaves(batch)[0])


def _reason(metrics: Mapping[str, Any]) -> str:
    if not math.isfinite(metrics["loss"]):
        return f"the loss is {metrics['loss']}"
    if not math.isfinite(metrics["grad_norm"]):
        return "the gradient is not finite"
    return f"the loss leaps to {metrics['loss']:.4g}"


def _save_batch(workdir: Path | None, step: int, batch: PyTree) -> str:
    if workdir is None:
        return ""
    path = workdir / "bad_batches" / f"{step}-{jax.process_index()}.npz"
    arrays = {path_name(where): np.asarray(x) for where, x in jax.tree.leaves_with_path(batch)}
    try:
        path.parent.mkdir(exist_ok=True)
        np.savez(path, allow_pickle=False, **arrays)
    except OSError as error:  # the step is the news, not the disk
        return f"Its batch could not be saved: {error}."
    return f"Its batch is in {path}."
