"""Where rows of metrics go besides metrics.jsonl: TensorBoard, Weights & Biases."""

from __future__ import annotations

import contextlib
import importlib
import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from lora_jax.training.metrics import Row
from lora_jax.training.workdir import write_json


@runtime_checkable
class Sink(Protocol):
    """Takes the rows of a run, one at a time."""

    def open(self, workdir: Path, step: int) -> None:
        """Starts a run, or goes on after `step`: later rows of an interrupted run come again."""

    def write(self, row: Row) -> None:
        """Takes a row as metrics.jsonl has it; values may be `None`."""

    def close(self) -> None:
        """Ends the run, whatever ended it."""


class TensorBoard:
    """Scalars for TensorBoard, in WORKDIR/tensorboard. Needs tensorboardX."""

    def __init__(self) -> None:
        self._module = _optional("tensorboardX", "tensorboard")

    def open(self, workdir: Path, step: int) -> None:
        self._writer = self._module.SummaryWriter(
            str(workdir / "tensorboard"), purge_step=step + 1 if step else None
        )

    def write(self, row: Row) -> None:
        for name, value in _numbers(row).items():
            self._writer.add_scalar(name, value, row["step"])

    def close(self) -> None:
        self._writer.close()


class WandB:
    """A run of Weights & Biases, one and the same for a workdir however often it resumes.

    Args:
      project: the project's name.
      config: what to show as the run's settings.
      mode: `online`, `offline` or `disabled`; `None` for what WANDB_MODE says.
    """

    def __init__(self, project: str, config: Mapping[str, Any], mode: str | None = None) -> None:
        self._module = _optional("wandb", "wandb")
        self._project, self._config, self._mode = project, dict(config), mode

    def open(self, workdir: Path, step: int) -> None:  # noqa: ARG002
        identity = workdir / "wandb.json"
        if not identity.exists():
            write_json(identity, {"id": uuid.uuid4().hex[:12]})
        self._run = self._module.init(
            project=self._project,
            id=json.loads(identity.read_text())["id"],
            name=workdir.name,
            config=self._config,
            dir=str(workdir),
            mode=self._mode,
            resume="allow",
        )
        # By our own step, because W&B's cannot go back to where a run resumes.
        self._run.define_metric("*", step_metric="step")

    def write(self, row: Row) -> None:
        self._run.log({**_numbers(row), "step": row["step"]})

    def close(self) -> None:
        self._run.finish()


@contextlib.contextmanager
def opened(sinks: Sequence[Sink], workdir: Path | None, step: int) -> Iterator[Sequence[Sink]]:
    """Opens sinks for a run, and closes them.

    Args:
      sinks: not yet open.
      workdir: of the run; without one there are no sinks.
      step: that the run resumes from.

    Yields:
      Those that are open.
    """
    if workdir is None:
        yield ()
        return
    with contextlib.ExitStack() as stack:
        for sink in sinks:
            sink.open(workdir, step)
            stack.callback(sink.close)
        yield sinks


def _numbers(row: Row) -> dict[str, float]:
    return {name: x for name, x in row.items() if name != "step" and x is not None}


def _optional(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ValueError(
            f"{module} is not installed: pip install -e '.[{extra}]', or leave out --{extra}"
        ) from error
