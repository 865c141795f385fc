"""Progress: one live line on a terminal; a plain line every few seconds in a log file."""

import resource
import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, NamedTuple

import jax
from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar
from rich.table import Column

SMOOTHING = 0.9  # weight of the past in the running mean of the time of a step


class Speed(NamedTuple):
    """Operations of floating-point numbers.

    Attributes:
      step: of one step's matrix products.
      peak: a second, of all devices at best.
    """

    step: float
    peak: float


class Progress:
    """Shows step, ETA, loss, learning rate, gradient, speed and memory while it is entered."""

    def __init__(
        self,
        total: int,
        start: int = 0,
        title: str = "",
        console: Console | None = None,
        every: float = 10.0,
        speed: Speed | None = None,
    ) -> None:
        """Prepares the line.

        Args:
          total: last step of the run.
          start: step that the run starts from.
          title: what to call the run.
          console: default standard output.
          every: seconds between two plain lines, where the console is no terminal.
          speed: for the utilisation of the devices; `None` if nobody knows.
        """
        self.console = console or Console()
        self._total, self._title, self._every = total, title, every
        self._speed = speed
        self._step_seconds = 0.0
        self._updates = 0
        self._printed_at = -float("inf")
        self._bar: Bar | None = None
        if self.console.is_terminal:
            # Cut at the edge of a narrow terminal: what matters most stands first.
            line = TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True))
            self._bar = Bar(BarColumn(bar_width=12), line, console=self.console)
            self._task = self._bar.add_task(
                f"{title} compiling".strip(), total=total, completed=start
            )

    def update(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Shows a step.

        Args:
          step: number of updates made.
          metrics: at least `loss`, `lr`, `grad_norm`, `seconds` (of this step) and `tokens` (in its
            batch).
        """
        seconds = metrics["seconds"]
        self._updates += 1
        # The first step of a process compiles, and says nothing about the speed of the others.
        past = seconds if self._updates <= 2 else self._step_seconds
        self._step_seconds = SMOOTHING * past + (1 - SMOOTHING) * seconds
        text = describe(step, self._total, metrics, self._step_seconds, self._speed)
        text = f"{self._title} | {text}" if self._title else text
        if self._bar:
            self._bar.update(self._task, completed=step, description=text)
        elif time.monotonic() - self._printed_at >= self._every or step == self._total:
            self._printed_at = time.monotonic()
            self.note(text)

    def note(self, text: str) -> None:
        """Prints a line that stays."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def __enter__(self) -> "Progress":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar.stop()


def describe(
    step: int,
    total: int,
    metrics: Mapping[str, Any],
    step_seconds: float,
    speed: Speed | None = None,
) -> str:
    """Writes one line of progress.

    Args:
      step: number of updates made.
      total: last step of the run.
      metrics: `loss`, `lr`, `grad_norm` and `tokens` of this step; and `skipped`, if there are any.
      step_seconds: typical time of a step.
      speed: for the utilisation of the devices; `None` if nobody knows.

    Returns:
      Such as `step 20/100 | ETA 0:00:08 | loss 0.7100 | lr 9.00e-04 | grad 1.20 | 20,480 tokens/s
      | MFU 41% | 512 MiB`.
    """
    parts = [
        f"step {step}/{total}",
        f"ETA {clock((total - step) * step_seconds)}",
        f"loss {_shown(metrics['loss'], '.4f')}",
        f"lr {metrics['lr']:.2e}",
        f"grad {_shown(metrics['grad_norm'], '.2f')}",
        f"{metrics['tokens'] / step_seconds:,.0f} tokens/s",
    ]
    if speed:
        parts.append(f"MFU {speed.step / step_seconds / speed.peak:.0%}")
    parts.append(f"{peak_memory() / 2**20:,.0f} MiB")
    if metrics.get("skipped"):
        parts.append(f"{metrics['skipped']} left out")
    return " | ".join(parts)


def clock(seconds: float) -> str:
    """Writes a duration as h:mm:ss.

    Example:
      >>> clock(3725.4)
      '1:02:05'
    """
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def peak_memory() -> int:
    """Returns the peak memory in bytes: of the first accelerator, or else of this process."""
    on_device = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in on_device:
        return on_device["peak_bytes_in_use"]
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in KiB, on macOS in bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _shown(value: float | None, form: str) -> str:
    return "nan" if value is None else format(value, form)
