"""What a task is: labelled texts to train on, others to test on, and how answers are scored."""

from __future__ import annotations

from typing import NamedTuple


class Record(NamedTuple):
    """One example.

    Attributes:
      text: the text, or the first of a pair.
      label: the index of a class, or a score.
      pair: the second text of a pair.
    """

    text: str
    label: float
    pair: str | None = None


class Task(NamedTuple):
    """A supervised task on texts.

    Attributes:
      name: such as "docstrings".
      about: one sentence on where the texts come from and how they are split.
      classes: names of the classes, in the order of the labels; none for a score.
      train: examples to train on.
      test: examples to test on, none of which is in `train`.
      metric: key of `evaluation.METRICS`.
      validation: examples to choose between runs by; none where the source has none.
    """

    name: str
    about: str
    classes: tuple[str, ...]
    train: tuple[Record, ...]
    test: tuple[Record, ...]
    metric: str
    validation: tuple[Record, ...] = ()

    @property
    def outputs(self) -> int:
        """How many numbers a model returns for a text: one a class, or a single score."""
        return len(self.classes) or 1
