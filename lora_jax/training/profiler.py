"""A trace of a few steps, for XProf and Perfetto."""

from pathlib import Path
from types import TracebackType

import jax
from jaxtyping import PyTree


class Profiler:
    """Traces some steps of a run, after those that compile."""

    def __init__(self, workdir: Path | None, first: int, count: int = 3) -> None:
        """Prepares the trace.

        Args:
          workdir: it goes to `profile/` there; `None` for no trace.
          first: number of the first step that is traced.
          count: how many steps are.
        """
        self._directory = workdir and workdir / "profile"
        self._first, self._count = first, count
        self._running = False

    def before(self, step: int) -> None:
        """Starts the trace if it is time."""
        if self._directory and step == self._first:
            jax.profiler.start_trace(str(self._directory))
            self._running = True

    def after(self, step: int, state: PyTree) -> None:
        """Ends the trace if it is time, once the device is done."""
        if self._running and step >= self._first + self._count - 1:
            jax.block_until_ready(state)
            self._stop()

    def __enter__(self) -> "Profiler":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._running:
            self._stop()

    def _stop(self) -> None:
        self._running = False
        jax.profiler.stop_trace()
