"""Ctrl-C and SIGTERM, held back until the step in progress is done."""

import os
import signal
import threading
from types import FrameType, TracebackType

from lora_jax.training.processes import Vote


class StopSignals:
    """While entered, the first SIGINT or SIGTERM is only noted; a second one acts as usual.

    Python delivers signals to the main thread; in any other thread this does nothing.
    """

    received: signal.Signals | None = None

    def __init__(self) -> None:
        self._vote = Vote()

    def agreed(self) -> signal.Signals | None:
        """Returns the signal that some process has received, in all of them after the same step.

        To be called once a step by every process.
        """
        highest = self._vote.highest(self.received or 0)
        if highest:
            self.received = signal.Signals(highest)
        return self.received if highest else None

    def __enter__(self) -> "StopSignals":
        self._previous = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._restore()

    @property
    def exit_code(self) -> int:
        """130 after Ctrl-C; 0 after SIGTERM, for a preempted run has not failed."""
        return 0 if self.received == signal.SIGTERM else 128 + signal.SIGINT

    def _note(self, number: int, _: FrameType | None) -> None:
        self.received = signal.Signals(number)
        self._restore()
        # Written past Python's buffers: one of them may be in the middle of a write right now.
        said = f"\n{self.received.name}: stopping after this step; once more stops at once\n"
        os.write(2, said.encode())

    def _restore(self) -> None:
        while self._previous:
            signal.signal(*self._previous.popitem())
