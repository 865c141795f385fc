"""WikiSQL: questions about tables of Wikipedia, answered by SQL queries.

Source: Zhong et al. 2017, "Seq2SQL: generating structured queries from natural language using
reinforcement learning", and `lib/query.py` of its repository for how a query is written.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lora_jax.data.readers import Fields, Row, read_json_lines, text
from lora_jax.data.reading import Reading
from lora_jax.data.sources import Source
from lora_jax.data.text_task import TextRecord, TextTask, ask

SOURCE = Source(
    "wikisql",
    {
        split: (f"{name}.jsonl", f"data/{name}.jsonl")
        for split, name in {"train": "train", "validation": "dev", "test": "test"}.items()
    },
    "the archive data.tar.bz2 of GitHub's salesforce/WikiSQL",
)
ABOUT = "WikiSQL's training, development and test sets, as published."
AGGREGATES = ("", "MAX", "MIN", "COUNT", "SUM", "AVG")
OPERATORS = ("=", ">", "<", "OP")


def wikisql(directory: str | Path | None = None, *, bad_rows: str = "raise") -> TextTask:
    """Reads WikiSQL.

    Args:
      directory: holds the questions and, as `NAME.tables.jsonl`, the tables; as of
        `sources.read_split`.
      bad_rows: "raise" or "skip".

    Returns:
      The task: 56,355, 8,421 and 15,878 questions to train on, choose by and test on, as
      published. `fields["sql"]` is a query as published.
    """
    reading = Reading(SOURCE, directory, bad_rows, _read)
    train, validation, test = (reading.records(split, _record) for split in SOURCE.files)
    return TextTask(
        *("wikisql", ABOUT, train, test),
        metrics=("logical_form",),
        max_new_tokens=128,
        validation=validation,
        skipped=tuple(reading.skipped),
    )


def write_query(sql: Any, columns: list[str]) -> str:
    """Writes a query as WikiSQL prints it.

    Args:
      sql: the index of a column `sel`, of an aggregate `agg`, and conditions `conds`, each the
        index of a column, the index of an operator, and a value.
      columns: names of the table's columns.

    Raises:
      ValueError: it has another form.

    >>> write_query({"sel": 0, "agg": 3, "conds": [[1, 0, "Jazz"]]}, ["player", "team"])
    'SELECT COUNT player FROM table WHERE team = Jazz'
    """
    try:
        selected = f"{AGGREGATES[sql['agg']]} {columns[sql['sel']]}".strip()
        conditions = [f"{columns[c]} {OPERATORS[o]} {value}" for c, o, value in sql["conds"]]
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ValueError(f"{sql!r} is no query on {len(columns)} columns") from error
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    return f"SELECT {selected} FROM table{where}"


def _read(path: Path) -> Iterator[Row]:
    tables = {
        fields["id"]: fields["header"]
        for fields, _ in read_json_lines(path.with_suffix(".tables.jsonl"))
        if not isinstance(fields, ValueError)
    }
    for fields, place in read_json_lines(path):
        if isinstance(fields, ValueError):
            yield fields, place
        elif fields.get("table_id") not in tables:
            yield ValueError(f"there is no table {fields.get('table_id')!r}"), place
        else:
            yield {**fields, "header": tables[fields["table_id"]]}, place


def _record(fields: Fields, place: str) -> TextRecord:
    columns = fields["header"]
    prompt = f"Columns: {', '.join(columns)}\n{text(fields, 'question')}"
    query = write_query(fields.get("sql"), columns)
    return ask(prompt, query, fields={"sql": fields["sql"]}, place=place)
