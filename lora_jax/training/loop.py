"""The loop: steps, progress, metrics, evaluation, checkpoints, and a clean end whatever happens."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import Sharding
from jaxtyping import PyTree
from rich.console import Console

from lora_jax.training.average import averaged
from lora_jax.training.best import Best
from lora_jax.training.checkpoints import Checkpoints, DataIterator
from lora_jax.training.guard import count_skipped
from lora_jax.training.interrupts import StopSignals
from lora_jax.training.labels import join
from lora_jax.training.metrics import MetricsLog, Row
from lora_jax.training.placement import place_batch
from lora_jax.training.processes import is_first, together
from lora_jax.training.profiler import Profiler
from lora_jax.training.progress import Progress, Speed
from lora_jax.training.sinks import Sink, opened
from lora_jax.training.state import TrainState
from lora_jax.training.step import StepFn
from lora_jax.training.watch import OnNonfinite, Watch, count_tokens
from lora_jax.training.workdir import Resume, check_resume, check_writable, locked

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
    resume: Resume = "auto",
    evaluate: EvaluateFn | None = None,
    evaluate_every: int = 0,
    evaluate_average: bool = False,
    best: Best | None = None,
    checkpoint_every: int = 0,
    keep: int = 2,
    on_nonfinite: OnNonfinite = "stop",
    batch_sharding: Sharding | None = None,
    sinks: Sequence[Sink] = (),
    profile: bool = False,
    speed: Speed | None = None,
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
      workdir: where `metrics.jsonl`, `checkpoints/` and `best/` go; `None` writes no files.
      identity: what the run is (`identity.describe_run`), so that no other run's checkpoint is
        resumed.
      resume: `auto`, from the newest checkpoint if there is one; `never`, refuse to start where
        there is one; `must`, refuse to start where there is none.
      evaluate: `evaluate(variables) -> {name: value}`; logged as `eval/name`. It must not keep the
        arrays.
      evaluate_every: steps between evaluations; 0 for only one, at the end.
      evaluate_average: evaluate the moving average (`optimizer.ema`) instead of the last state.
      best: keeps the checkpoint of the best evaluation in `best/`, apart from the newest ones, and
        may end training early; `None` for neither.
      checkpoint_every: steps between checkpoints; 0 for only one, at the end.
      keep: number of newest checkpoints kept.
      on_nonfinite: what to do about a step whose loss or gradient is not finite, or whose loss
        leaps (`optimizer.spike`): its batch is saved in `bad_batches/`, and then the run stops, or
        `skip`s the step, which changes nothing.
      batch_sharding: where batches go on a mesh (`Shardings.batch`).
      sinks: take the rows of the metrics too.
      profile: writes a trace of a few steps to `profile/`.
      speed: operations of a step, and of the devices at best, for the progress line.
      title: what to call the run in its progress line.
      console: where progress is shown; default standard output.

    Returns:
      The last state and all metrics.

    Raises:
      OSError: the workdir cannot be written, is in use, or lacks the space for the checkpoints,
        before any step; or a checkpoint could not be written.
      ValueError: the workdir's checkpoint is of another run, or `resume` forbids.
      FloatingPointError: a step was not sound; it is named.
    """
    first_process = is_first()
    _evaluated(state, evaluate_average)  # an optimiser that keeps no average is told so now

    with contextlib.ExitStack() as stack:
        with together("opening the workdir"):
            _check_workdir(workdir, resume, state, keep + 1 + (2 if best else 0))
            stack.enter_context(locked(workdir if first_process else None))
        checkpoints = stack.enter_context(_open(workdir, "checkpoints", identity, keep))
        best_one = stack.enter_context(_open(workdir if best else None, "best", identity, 1))
        if checkpoints and checkpoints.latest() is not None:
            state = checkpoints.restore(state, data)
        start = int(state.step)
        if best_one:
            best_one.discard_after(start)
        console = console if first_process else Console(quiet=True)
        progress = stack.enter_context(Progress(steps, start, title, console, speed=speed))
        log = stack.enter_context(_open_log(workdir, start, first_process))
        sinks = stack.enter_context(opened(sinks if first_process else (), workdir, start))
        watch = Watch(log, progress, sinks, on_nonfinite, workdir, count_skipped(state.opt_state))
        profiler = stack.enter_context(Profiler(workdir if profile else None, first=start + 3))
        stop = stack.enter_context(StopSignals())
        if start:
            progress.note(f"resuming after step {start} of {steps}")
        gave_up = best is not None and best.gives_up(log.rows)

        for number in range(start + 1, steps + 1):
            if gave_up:
                break
            batch = next(data)
            profiler.before(number)
            state, metrics = _advance(step, state, frozen, batch, batch_sharding)
            watch.push(number, metrics, batch)
            profiler.after(number, state)
            stopping = stop.agreed()

            if evaluate and _due(number, evaluate_every, steps):
                with watch.apart():
                    values = evaluate(join(_evaluated(state, evaluate_average), frozen))
                    watch.evaluation(number, values)
                    if best and best_one and best.is_newest(log.rows):
                        best_one.save(state, data)
                    gave_up = best is not None and best.gives_up(log.rows)
            if checkpoints and (stopping or gave_up or _due(number, checkpoint_every, steps)):
                with watch.apart():
                    log.sync()
                    checkpoints.save(state, data)
            if stopping:
                watch.flush()
                progress.note(_farewell(stopping.name, number, steps, checkpoints))
                raise SystemExit(stop.exit_code)
        watch.flush()
        if best and gave_up:
            progress.note(f"stopped early, after step {state.step}: {best.reason()}")
    return Result(state, log.rows)


def _advance(
    step: StepFn, state: TrainState, frozen: PyTree, batch: PyTree, sharding: Sharding | None
) -> tuple[TrainState, Mapping[str, Any]]:
    placed = place_batch(batch, sharding)
    # Nothing goes to the device in passing: the batch went by name, the rest is there.
    with jax.transfer_guard("disallow"):
        state, metrics = step(state, frozen, placed)
    if jax.process_count() > 1:  # each has rows of its own: those of all are on the devices
        metrics = {**metrics, "tokens": count_tokens(placed)}
    return state, metrics


def _due(step: int, every: int, steps: int) -> bool:
    return step == steps or (every > 0 and step % every == 0)


def _check_workdir(
    workdir: Path | None, resume: Resume, state: TrainState, checkpoints: int
) -> None:
    if workdir is None:
        return
    check_resume(workdir, resume)
    # A new checkpoint is renamed into place before the oldest is removed.
    check_writable(workdir, checkpoints * sum(x.nbytes for x in jax.tree.leaves(state)))


def _open(
    workdir: Path | None, name: str, identity: Mapping[str, Any] | None, keep: int
) -> contextlib.AbstractContextManager[Checkpoints | None]:
    if workdir is None:
        return contextlib.nullcontext()
    return Checkpoints(workdir / name, identity or {}, keep=keep)


def _open_log(workdir: Path | None, start: int, write: bool) -> MetricsLog:
    return MetricsLog(workdir and workdir / "metrics.jsonl", start, write=write)


def _evaluated(state: TrainState, average: bool) -> PyTree:
    return averaged(state.trainable, state.opt_state) if average else state.trainable


def _farewell(signal: str, step: int, steps: int, checkpoints: Checkpoints | None) -> str:
    stopped = f"{signal}: stopped after step {step} of {steps}."
    if not checkpoints:
        return f"{stopped} It has no workdir, so no checkpoint."
    checkpoints.wait()
    return f"{stopped} Saved in {checkpoints.directory}; the same command resumes from there."
