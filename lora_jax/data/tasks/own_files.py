"""Fine-tuning on files of one's own: conversations, or fields that make a prompt and an answer.

Any JSON, JSON lines, CSV, TSV or Parquet will do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from lora_jax.data.conversations import from_messages, from_sharegpt
from lora_jax.data.names import known
from lora_jax.data.readers import Fields
from lora_jax.data.reading import Reading
from lora_jax.data.sources import Source
from lora_jax.data.split import hold_out
from lora_jax.data.text_task import TextRecord, TextTask, ask

Make = Callable[[Fields, str], TextRecord]


def sft(
    train: str = "",
    test: str = "",
    *,
    prompt: str = "{prompt}",
    answer: str = "{answer}",
    system: str = "",
    test_share: float = 0.1,
    metrics: tuple[str, ...] = ("rouge_l",),
    max_new_tokens: int = 256,
    bad_rows: str = "raise",
) -> TextTask:
    r"""Makes a task of prompts and answers in the fields of any file.

    Args:
      train: the file to train on, or a pattern of several.
      test: the file to test on; if there is none, a hash of the prompts holds `test_share` of the
        training records back.
      prompt: text with names of fields in braces: "{instruction}\n{input}".
      answer: the same for the answer.
      system: the same for what the system says first; nothing if empty.
      test_share: see `test`.
      metrics: keys of `evaluation.METRICS`.
      max_new_tokens: tokens of an answer at most.
      bad_rows: "raise" or "skip".
    """

    def make(fields: Fields, place: str) -> TextRecord:
        return ask(
            _fill(prompt, fields),
            _fill(answer, fields),
            system=_fill(system, fields) if system else "",
            place=place,
        )

    return _task("sft", train, test, make, test_share, metrics, max_new_tokens, bad_rows)


def conversations(
    name: str,
    train: str = "",
    test: str = "",
    *,
    field: str = "",
    test_share: float = 0.1,
    metrics: tuple[str, ...] = ("rouge_l",),
    max_new_tokens: int = 256,
    bad_rows: str = "raise",
) -> TextTask:
    """Makes a task of conversations in the field of any file; other arguments as of `sft`.

    Args:
      name: "messages", OpenAI's form, or "sharegpt", with a field "system" if there is one.
      train: as of `sft`.
      test: as of `sft`.
      field: holds the conversation; by default "messages" or "conversations".
      test_share: as of `sft`.
      metrics: as of `sft`.
      max_new_tokens: as of `sft`.
      bad_rows: as of `sft`.
    """
    make = FORMS[known(name, FORMS, "form of conversations")]
    return _task(
        name, train, test, partial(make, field), test_share, metrics, max_new_tokens, bad_rows
    )


def _messages(field: str, fields: Fields, place: str) -> TextRecord:
    return from_messages(fields.get(field or "messages"), place=place)


def _sharegpt(field: str, fields: Fields, place: str) -> TextRecord:
    system = fields.get("system") or ""
    return from_sharegpt(fields.get(field or "conversations"), system=system, place=place)


FORMS: Mapping[str, Callable[[str, Fields, str], TextRecord]] = {
    "messages": _messages,
    "sharegpt": _sharegpt,
}
"""How the conversations of each form are read."""


def _fill(form: str, fields: Fields) -> str:
    try:
        text = form.format_map(fields).strip()
    except (KeyError, IndexError) as error:
        raise ValueError(f"no field {error} for {form!r}; found: {', '.join(fields)}") from error
    if not text:
        raise ValueError(f"{form!r} is empty")
    return text


def _task(
    name: str,
    train: str,
    test: str,
    make: Make,
    test_share: float,
    metrics: tuple[str, ...],
    max_new_tokens: int,
    bad_rows: str,
) -> TextTask:
    if not train:
        raise ValueError(f"task {name!r} needs the option `train`: a file, or a pattern of several")
    records, faults = _read(train, make, bad_rows)
    if test:
        tested, more = _read(test, make, bad_rows)
        about = f"Trained on {train}, tested on {test}."
        faults += more
    else:
        records, tested = hold_out(records, lambda record: record.prompt, test_share)
        about = f"Records of {train}, of which a hash of the prompts holds back {test_share:.0%}."
        if not records or not tested:
            raise ValueError(
                f"{train}: {len(records)} records to train on and {len(tested)} to test on; name a "
                "file with the option `test`, or change `test_share`"
            )
    return TextTask(
        *(name, about, records, tested, tuple(metrics), max_new_tokens), skipped=tuple(faults)
    )


def _read(file: str, make: Make, bad_rows: str) -> tuple[tuple[TextRecord, ...], list[str]]:
    path = Path(file).expanduser()
    source = Source(path.parent.name or ".", {"all": (path.name,)}, "your own files")
    reading = Reading(source, path.parent, bad_rows)
    return reading.records("all", make), reading.skipped
