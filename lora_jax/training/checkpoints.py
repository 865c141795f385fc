"""Checkpoints: the state of a run and its place in the data, in Orbax's format.

One directory a step, written beside its final name and renamed when complete:

    STEP/state      trainable arrays, optimiser state, step, random key; never a frozen array
    STEP/data       the state of the data iterator
    STEP/metadata   what the run is (`identity.describe_run`), and the shapes in `state`
"""

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, runtime_checkable

import jax
import orbax.checkpoint as ocp
from jaxtyping import PyTree

from lora_jax.training.identity import differences, shapes
from lora_jax.training.state import TrainState


@runtime_checkable
class DataIterator(Protocol):
    """An iterator over batches that knows its place, as Grain's do."""

    def __next__(self) -> PyTree: ...

    def get_state(self) -> Any:
        """Returns the place, in JSON."""

    def set_state(self, state: Any) -> None:
        """Moves to a place."""


class Checkpoints:
    """The checkpoints of one run. Saving copies the state and writes it while training goes on."""

    def __init__(self, directory: Path, identity: Mapping[str, Any], *, keep: int = 2) -> None:
        """Opens a directory of checkpoints.

        Args:
          directory: made if absent. What a killed run left half-written in it is removed.
          identity: what the run is, in JSON (`identity.describe_run`).
          keep: number of checkpoints kept; the oldest go first.
        """
        self.directory = directory
        self._identity = dict(identity)
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=True)
        self._orbax = ocp.CheckpointManager(directory.absolute(), options=options)

    def latest(self) -> int | None:
        """Returns the step of the newest complete checkpoint, or `None`."""
        return self._orbax.latest_step()

    def save(self, state: TrainState, data: DataIterator) -> None:
        """Saves the state and the data iterator's place. Returns once the arrays are copied.

        Args:
          state: the state to save, under `state.step`.
          data: the iterator that gave the batches up to that step.

        Raises:
          OSError: this save or the one before it failed, as on a full disk. What it wrote is
            removed, and the checkpoints before it are whole.
        """
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            data=ocp.args.JsonSave({"iterator": data.get_state()}),
            metadata=ocp.args.JsonSave({**self._identity, "state": shapes(state)}),
        )
        step = int(state.step)
        if step != self.latest():
            with self._explained_errors():
                self._orbax.save(step, args=items)

    def restore(self, state: TrainState, data: DataIterator) -> TrainState:
        """Restores the newest checkpoint, bit for bit.

        Args:
          state: a state of this run, for its structure, shapes and shardings; its values are not
            used.
          data: the run's data iterator; it is moved to the place it had.

        Returns:
          The saved state.

        Raises:
          ValueError: the checkpoint is of another run; the fields that differ are named.
          OSError: it cannot be read, as when a part of it was removed.
        """
        read = ocp.args.JsonRestore()
        described = self._read(metadata=read).metadata
        self._check_same_run(self.latest(), described, state)
        wanted = ocp.args.StandardRestore(jax.tree.map(_abstract, state))
        restored = self._read(state=wanted, data=read)
        data.set_state(restored.data["iterator"])
        return restored.state

    def discard_after(self, step: int) -> None:
        """Removes the checkpoints of later steps, which a run that resumes from `step` makes again.

        Args:
          step: the last one to keep.
        """
        for later in self._orbax.all_steps():
            if later > step:
                self._orbax.delete(later)

    def wait(self) -> None:
        """Waits until what was saved is on the disk; raises as `save` does."""
        with self._explained_errors():
            self._orbax.wait_until_finished()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._explained_errors():
            self._orbax.close()

    def _read(self, **items: Any) -> Any:
        step = self.latest()
        try:
            return self._orbax.restore(step, args=ocp.args.Composite(**items))
        except (OSError, ValueError, KeyError) as error:  # as Orbax and TensorStore see fit
            older = max((s for s in self._orbax.all_steps() if s != step), default=None)
            then = f"resume from step {older}" if older is not None else "start again"
            reason = str(error).splitlines()[0][:200]
            raise OSError(
                f"checkpoint {step} in {self.directory} cannot be read: {reason}. "
                f"Remove {self.directory / str(step)} to {then}."
            ) from error

    @contextlib.contextmanager
    def _explained_errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:  # Orbax passes on the ValueErrors of TensorStore
            for half_written in self.directory.glob(f"*{ocp.utils.TMP_DIR_SUFFIX}*"):
                shutil.rmtree(half_written, ignore_errors=True)
            free = shutil.disk_usage(self.directory).free / 2**20
            newest = self.latest()
            whole = "not there yet" if newest is None else f"of step {newest}"
            raise OSError(
                f"a checkpoint could not be written to {self.directory} ({free:.1f} MiB free); the "
                f"newest whole one is {whole}. The same command resumes the run."
            ) from error

    def _check_same_run(
        self, step: int | None, found: Mapping[str, Any], state: TrainState
    ) -> None:
        differ = differences(found, self._identity, ignore=("versions", "state"))
        # Only if that agrees: another rank changes the shape of every factor.
        differ = differ or differences({"state": found["state"]}, {"state": shapes(state)})
        if differ:
            more = f" (and {len(differ) - 5} more)" if len(differ) > 5 else ""
            raise ValueError(
                f"checkpoint {step} in {self.directory} is of another run: "
                f"{'; '.join(differ[:5])}{more}. Choose another workdir, or the settings it was "
                f"made with."
            )


def _abstract(x: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
