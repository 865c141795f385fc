"""Many processes that train as one: how they meet, agree, and end together.

Each process drives the devices of one host, or a share of them, and runs the same program.
`connect` is called once, before JAX looks for devices. On a pod of TPUs and under SLURM the
processes find each other; elsewhere flags or the environment say where the first one listens, how
many there are, and which one this is.
"""

import contextlib
import functools
import importlib.util
import os
import sys
import threading
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

# What stands in for flags that were not given.
COORDINATOR, PROCESSES, PROCESS = (
    "JAX_COORDINATOR_ADDRESS",
    "JAX_NUM_PROCESSES",
    "JAX_PROCESS_ID",
)

_MESSAGE_BYTES = 1000


class TogetherError(ValueError):
    """What went wrong in one process, raised by all of them."""


def connect(
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    *,
    timeout: int = 100,
) -> None:
    """Joins the other processes of this run, if there are any.

    With `coordinator`, `processes` and `process`, or the environment variables
    JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID in their place, this is one of as
    many processes. Otherwise JAX asks SLURM, where a step of several tasks runs, or the pod, on a
    host with TPUs. Anywhere else, and with `processes=1`, the process is alone.

    Args:
      coordinator: `host:port` at which the first process listens.
      processes: how many there are.
      process: the number of this one, from 0.
      timeout: seconds after which all end if one has died or hangs, and that they wait for each
        other at the start.

    If the others are not there in time, this process says so and ends with status 1.

    Raises:
      ValueError: some of the three are missing, or do not go together; or a pod did not say which
        processes there are.
    """
    coordinator = coordinator or os.environ.get(COORDINATOR)
    processes = _number(PROCESSES) if processes is None else processes
    process = _number(PROCESS) if process is None else process
    if processes == 1 and process in (None, 0):
        return
    given = {"coordinator": coordinator, "processes": processes, "process": process}
    missing = [name for name, value in given.items() if value is None]
    if len(missing) == len(given):
        if not (_under_slurm() or _on_tpus()):
            return
    elif missing:
        raise ValueError(f"one of many processes needs {', '.join(missing)} too; found {given}")
    elif not 0 <= (process or 0) < (processes or 0):
        raise ValueError(f"process = {process} is none of {processes}: they count from 0")
    try:
        with _deadline(
            timeout, f"process {process} of {processes} has not met the others at {coordinator}"
        ):
            jax.distributed.initialize(
                coordinator,
                processes,
                process,
                # What is given needs no detection, which looks for clusters that are not there.
                cluster_detection_method="deactivate" if not missing else None,
                # Beyond the deadline: JAX would end the process with a trace of its insides.
                initialization_timeout=2 * timeout + 60,
                heartbeat_timeout_seconds=timeout,
                shutdown_timeout_seconds=timeout,
            )
    except ValueError as error:
        raise ValueError(
            f"this host does not say which processes there are ({error}); give coordinator, "
            f"processes and process, or processes=1 for this one alone"
        ) from error


@contextlib.contextmanager
def _deadline(seconds: float, late: str) -> Iterator[None]:
    """Ends the process if what is waited for, in code that no exception reaches, takes longer."""

    def end() -> None:
        sys.stderr.write(f"error: {late} within {seconds} s\n")
        sys.stderr.flush()
        os._exit(1)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def is_first() -> bool:
    """Whether this is the process that prints, logs and writes reports."""
    return jax.process_index() == 0


@contextlib.contextmanager
def together(doing: str) -> Iterator[None]:
    """Makes what fails in one process fail in all, where otherwise the others would wait for it.

    All processes leave the block together. What they do in it must not need the others.

    Args:
      doing: what is done here, for the message.

    Raises:
      TogetherError: in every process, what was wrong in the first of those that failed. A process
        that is alone raises its own error.
    """
    if jax.process_count() == 1:
        yield
        return
    failure: Exception | None = None
    try:
        yield
    except Exception as error:  # whatever it is, the others wait
        failure = error
    said = "" if failure is None else str(failure) or type(failure).__name__
    written = np.frombuffer(said.encode()[:_MESSAGE_BYTES].ljust(_MESSAGE_BYTES, b"\0"), np.uint8)
    messages = [bytes(row).rstrip(b"\0").decode(errors="replace") for row in gather(written)]
    for process, message in enumerate(messages):
        if message:
            raise TogetherError(
                f"process {process} of {len(messages)}, {doing}: {message}"
            ) from failure


def gather(values: np.ndarray) -> np.ndarray:
    """Gives every process the values of each, and so waits for all.

    Args:
      values: of one shape and type in all processes.

    Returns:
      An array [processes, *shape].
    """
    return values[None] if jax.process_count() == 1 else np.asarray(_gather(values))


def gather_parts(mine: np.ndarray, count: int) -> np.ndarray:
    """Puts together what the processes have found, each of its part of some items.

    Args:
      mine: of every n-th item, from the number of this process on, if there are n processes.
      count: of all items.

    Returns:
      An array [count, *shape], the same in every process.
    """
    each = -(-count // jax.process_count())
    filled = np.zeros((each, *mine.shape[1:]), mine.dtype)
    filled[: len(mine)] = mine
    return np.moveaxis(gather(filled), 0, 1).reshape(-1, *mine.shape[1:])[:count]


class Vote:
    """A number that all processes agree on, without making any of them wait."""

    def __init__(self) -> None:
        self._asked: jax.Array | None = None

    def highest(self, mine: int) -> int:
        """Returns the highest number of all processes: what they said at the call before this one.

        A process that is alone gets its own number at once.
        """
        if jax.process_count() == 1:
            return mine
        asked, self._asked = self._asked, _gather(np.array(mine, np.int32))
        return 0 if asked is None else int(np.asarray(asked).max())


def _gather(values: np.ndarray) -> jax.Array:
    firsts = {device.process_index: device for device in reversed(jax.devices())}
    mesh = Mesh(np.array([firsts[i] for i in range(jax.process_count())]), ("process",))
    mine = jax.make_array_from_process_local_data(
        NamedSharding(mesh, PartitionSpec("process")), values[None]
    )
    return _replication(mesh)(mine)


@functools.cache
def _replication(mesh: Mesh) -> Callable[[jax.Array], jax.Array]:
    """Compiled once for each mesh and shape."""
    return jax.jit(lambda x: x, out_shardings=NamedSharding(mesh, PartitionSpec()))


def _number(variable: str) -> int | None:
    text = os.environ.get(variable)
    if text is None:
        return None
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{variable} is {text!r}, which is no number") from None


def _under_slurm() -> bool:
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1


def _on_tpus() -> bool:
    platforms = os.environ.get("JAX_PLATFORMS", "tpu").split(",")
    return "tpu" in platforms and importlib.util.find_spec("libtpu") is not None
