"""The loop: steps, progress, metrics, evaluation, checkpoints, and a clean end whatever happens."""

import contextlib
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Sharding
from jaxtyping import PyTree
from rich.console import Console

from lora_jax.training.checkpoints import Checkpoints, DataIterator
from lora_jax.training.interrupts import StopSignals
from lora_jax.training.labels import join
from lora_jax.training.metrics import MetricsLog, Row
from lora_jax.training.progress import Progress
from lora_jax.training.state import TrainState
from lora_jax.training.step import StepFn
from lora_jax.training.workdir import check_writable

EvaluateFn = Callable[[PyTree], Mapping[str, float]]


class Result(NamedTuple):
    """A finished run: its last state, and all rows of its metrics, those before a resume too."""

    state: TrainState
    rows: list[Row]

    def last(self, metric: str) -> float:
        """Returns the last value of a metric, such as `loss` or `eval/accuracy`."""
        return self._values(metric)[-1][1]

    def best(self, metric: str, mode: Callable[..., Any] = max) -> tuple[int, float]:
        """Returns `(step, value)` where a metric was best: highest, or lowest with `mode=min`."""
        return mode(self._values(metric), key=lambda found: found[1])

    def _values(self, metric: str) -> list[tuple[int, float]]:
        found = [(row["step"], row[metric]) for row in self.rows if row.get(metric) is not None]
        if not found:
            raise ValueError(f"no row has {metric!r}; there are {sorted(set().union(*self.rows))}")
        return found


def train(
    step: StepFn,
    state: TrainState,
    frozen: PyTree,
    data: DataIterator,
    *,
    steps: int,
    workdir: Path | None = None,
    identity: Mapping[str, Any] | None = None,
    evaluate: EvaluateFn | None = None,
    evaluate_every: int = 0,
    checkpoint_every: int = 0,
    keep: int = 2,
    batch_sharding: Sharding | None = None,
    title: str = "",
    console: Console | None = None,
) -> Result:
    """Trains until `steps` updates are made, from the newest checkpoint of the workdir if any.

    A run that was stopped, killed or preempted and then resumed ends with the same bits as one
    that was not. After Ctrl-C or SIGTERM the step in progress is finished and saved, and
    `SystemExit` leaves the loop (code 130, or 0 for SIGTERM); the same command then resumes.

    Args:
      step: from `step.make_step`.
      state: from `state.init_state`. It is donated: use the state of the result.
      frozen: the second result of `init_state`.
      data: an endless iterator of batches (pytrees of NumPy arrays), with Grain's `get_state`,
        `set_state`.
      steps: number of updates in the whole run.
      workdir: where `metrics.jsonl` and `checkpoints/` go; `None` writes no files.
      identity: what the run is (`identity.describe_run`), so that no other run's checkpoint is
        resumed.
      evaluate: `evaluate(variables) -> {name: value}`; logged as `eval/name`. It must not keep the
        arrays.
      evaluate_every: steps between evaluations; 0 for only one, at the end.
      checkpoint_every: steps between checkpoints; 0 for only one, at the end.
      keep: number of checkpoints kept.
      batch_sharding: where batches go on a mesh (`Shardings.batch`).
      title: what to call the run in its progress line.
      console: where progress is shown; default standard output.

    Returns:
      The last state and all metrics.

    Raises:
      OSError: the workdir cannot be written or lacks the space for the checkpoints; before any
        step.
      ValueError: the workdir's checkpoint is of another run.
      FloatingPointError: the loss is no longer finite; the step is named.
    """
    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(_open_checkpoints(workdir, identity, state, keep))
        if checkpoints and checkpoints.latest() is not None:
            state = checkpoints.restore(state, data)
        start = int(state.step)
        log = stack.enter_context(MetricsLog(workdir and workdir / "metrics.jsonl", start))
        progress = stack.enter_context(Progress(steps, start, title, console))
        stop = stack.enter_context(StopSignals())
        reader = _Reader(log, progress)
        if start:
            progress.note(f"resuming after step {start} of {steps}")

        for number in range(start + 1, steps + 1):
            batch = next(data)
            # Nothing goes to the device in passing: the batch by name, the rest is there.
            with jax.transfer_guard("disallow"):
                state, metrics = step(state, frozen, jax.device_put(batch, batch_sharding))
            reader.push(number, metrics, count_tokens(batch))
            stopping = stop.received

            if evaluate and _due(number, evaluate_every, steps):
                reader.flush()
                values = evaluate(join(state.trainable, frozen))
                log.write(number, {f"eval/{name}": value for name, value in values.items()})
                progress.note(_sentence(number, values))
                reader.restart()
            if checkpoints and (stopping or _due(number, checkpoint_every, steps)):
                reader.flush()
                checkpoints.save(state, data)
                reader.restart()
            if stopping:
                reader.flush()
                progress.note(_farewell(stopping.name, number, steps, checkpoints))
                raise SystemExit(stop.exit_code)
        reader.flush()
    return Result(state, log.rows)


def count_tokens(batch: PyTree) -> int:
    """Counts the real tokens of a batch: those of its `mask`, or its rows if it has none."""
    if isinstance(batch, Mapping) and "mask" in batch:
        return int(np.sum(batch["mask"]))
    return len(jax.tree.leaves(batch)[0])


class _Reader:
    """Reads metrics one step behind, so that the device never waits for the host."""

    def __init__(self, log: MetricsLog, progress: Progress) -> None:
        self._log, self._progress = log, progress
        self._pending: tuple[int, Mapping[str, Any], int] | None = None
        self.restart()

    def push(self, step: int, metrics: Mapping[str, Any], tokens: int) -> None:
        self.flush()
        self._pending = step, metrics, tokens

    def flush(self) -> None:
        if self._pending is None:
            return
        (step, on_device, tokens), self._pending = self._pending, None
        metrics = jax.device_get(on_device)
        if not math.isfinite(metrics["loss"]):
            raise FloatingPointError(
                f"the loss is {metrics['loss']} at step {step} (grad_norm {metrics['grad_norm']}). "
                f"Lower the learning rate, warm up for longer, or clip harder."
            )
        seconds = time.perf_counter() - self._since
        self.restart()
        self._progress.update(
            step, self._log.write(step, {**metrics, "seconds": seconds, "tokens": tokens})
        )

    def restart(self) -> None:
        """Starts the clock of the next step, after what is not a step."""
        self._since = time.perf_counter()


def _due(step: int, every: int, steps: int) -> bool:
    return step == steps or (every > 0 and step % every == 0)


def _open_checkpoints(
    workdir: Path | None, identity: Mapping[str, Any] | None, state: TrainState, keep: int
) -> contextlib.AbstractContextManager[Checkpoints | None]:
    if workdir is None:
        return contextlib.nullcontext()
    # The newest is renamed into place before the oldest is removed.
    check_writable(workdir, needed=(keep + 1) * sum(x.nbytes for x in jax.tree.leaves(state)))
    return Checkpoints(workdir / "checkpoints", identity or {}, keep=keep)


def _farewell(signal: str, step: int, steps: int, checkpoints: Checkpoints | None) -> str:
    stopped = f"{signal}: stopped after step {step} of {steps}."
    if not checkpoints:
        return f"{stopped} It has no workdir, so no checkpoint."
    checkpoints.wait()
    return f"{stopped} Saved in {checkpoints.directory}; the same command resumes from there."


def _sentence(step: int, values: Mapping[str, float]) -> str:
    named = [f"{name} {value:.4g}" for name, value in values.items()]
    return " | ".join([f"step {step}", *named])
