"""The tasks by name."""

from __future__ import annotations

import functools
import inspect
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lora_jax.data.names import known
from lora_jax.data.prepare import find_prepared_task, prepare, read_prepared_task
from lora_jax.data.source_files import are_unchanged, recorded, write_source_files
from lora_jax.data.task import Task
from lora_jax.data.tasks.arc import CONFIGS as ARC
from lora_jax.data.tasks.arc import arc
from lora_jax.data.tasks.bool_q import bool_q
from lora_jax.data.tasks.cocohd import PARTS as COCOHD
from lora_jax.data.tasks.cocohd import cocohd
from lora_jax.data.tasks.cocohd_hearings import cocohd_hearings
from lora_jax.data.tasks.dart import dart
from lora_jax.data.tasks.digits import digits
from lora_jax.data.tasks.docstrings import docstrings
from lora_jax.data.tasks.donut_documents import SETS as DOCUMENTS
from lora_jax.data.tasks.donut_documents import donut_documents
from lora_jax.data.tasks.e2e_nlg import e2e_nlg
from lora_jax.data.tasks.flickr8k import flickr8k
from lora_jax.data.tasks.glue import TASKS as GLUE
from lora_jax.data.tasks.glue import glue
from lora_jax.data.tasks.gov_report import gov_report
from lora_jax.data.tasks.gsm8k import gsm8k
from lora_jax.data.tasks.invoices import invoices
from lora_jax.data.tasks.llava_cot import llava_cot
from lora_jax.data.tasks.medmcqa import medmcqa
from lora_jax.data.tasks.mmlu import mmlu
from lora_jax.data.tasks.own_files import FORMS, conversations, sft
from lora_jax.data.tasks.samsum import samsum
from lora_jax.data.tasks.sroie import sroie
from lora_jax.data.tasks.sroie_lines import sroie_lines
from lora_jax.data.tasks.stdlib_texts import stdlib_code, stdlib_prose
from lora_jax.data.tasks.toolace import toolace
from lora_jax.data.tasks.web_nlg import web_nlg
from lora_jax.data.tasks.wikisql import wikisql
from lora_jax.data.text_task import TextTask

TASKS: Mapping[str, Callable[..., Task]] = {
    "docstrings": docstrings,
    **{name: functools.partial(cocohd, name) for name in COCOHD},
    **{name: functools.partial(glue, name) for name in GLUE},
    "sroie_lines": sroie_lines,
}
"""Makers of the tasks of labelled texts."""

TEXT_TASKS: Mapping[str, Callable[..., TextTask]] = {
    **{name: functools.partial(arc, name) for name in ARC},
    "bool_q": bool_q,
    "cocohd_hearings": cocohd_hearings,
    **{name: functools.partial(conversations, name) for name in FORMS},
    "dart": dart,
    "digits": digits,
    **{name: functools.partial(donut_documents, name) for name in DOCUMENTS},
    "e2e_nlg": e2e_nlg,
    "flickr8k": flickr8k,
    "gov_report": gov_report,
    "gsm8k": gsm8k,
    "invoices": invoices,
    "llava_cot": llava_cot,
    "medmcqa": medmcqa,
    "mmlu": mmlu,
    "samsum": samsum,
    "sft": sft,
    "sroie": sroie,
    "stdlib_code": stdlib_code,
    "stdlib_prose": stdlib_prose,
    "toolace": toolace,
    "web_nlg": web_nlg,
    "wikisql": wikisql,
}
"""Makers of the tasks of answering texts with texts."""


def is_text_task(name: str) -> bool:
    """Says whether a task is one of `load_text_task`.

    Raises:
      ValueError: there is no such task; the nearest is named.
    """
    return known(name, {**TASKS, **TEXT_TASKS}, "task") in TEXT_TASKS


def load_task(name: str, options: Mapping[str, Any] | None = None) -> Task:
    """Makes a task of labelled texts from its config.

    Args:
      name: a key of `TASKS`.
      options: arguments of its maker.

    Returns:
      The task.

    Raises:
      ValueError: an unknown task or option; the nearest is named.
    """
    if is_text_task(name):
        raise ValueError(f"task {name!r} answers texts with texts: it has no labels to predict")
    return _make(TASKS[name], name, options)


def load_text_task(
    name: str, options: Mapping[str, Any] | None = None, *, cache: str | Path | None = None
) -> TextTask:
    """Makes a task of answering texts with texts from its config.

    Args:
      name: a key of `TEXT_TASKS`.
      options: arguments of its maker.
      cache: a directory of TFDS, in which the records are prepared as array_record the first time
        and read from lazily ever after: until a file that they came from has another size or time
        of change, or more such files are there. Files that are gone are not missed.

    Returns:
      The task.

    Raises:
      ValueError: an unknown task or option; the nearest is named.
    """
    if not is_text_task(name):
        raise ValueError(f"task {name!r} has labels to predict, and no answers in words")
    if cache is None:
        return _make(TEXT_TASKS[name], name, options)
    made = find_prepared_task(name, cache, options)
    if made is None or not are_unchanged(made):
        with recorded() as found:
            task = _make(TEXT_TASKS[name], name, options)
        if made is not None:
            shutil.rmtree(made)
        made = prepare(task, cache, options)
        write_source_files(made, found, task)
    return read_prepared_task(made)


def task_options(name: str) -> dict[str, Any]:
    """The options of a task and their defaults, for a config.

    Args:
      name: a key of `TASKS` or `TEXT_TASKS`.

    Returns:
      option -> default, of the options whose default is a number, a text or None.

    Raises:
      ValueError: there is no such task.

    >>> task_options("sroie")
    {'directory': None, 'show': 'image', 'bad_rows': 'raise'}
    """
    maker = TEXT_TASKS[name] if is_text_task(name) else TASKS[name]
    defaults = {p.name: p.default for p in inspect.signature(maker).parameters.values()}
    plain = (str, int, float, bool, tuple, type(None))
    return {key: value for key, value in defaults.items() if isinstance(value, plain)}


def _make(maker: Callable[..., Any], name: str, options: Mapping[str, Any] | None) -> Any:
    for option in options or {}:
        known(option, inspect.signature(maker).parameters, f"option of task {name!r}")
    return maker(**(options or {}))
