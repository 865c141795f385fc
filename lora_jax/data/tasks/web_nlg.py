"""WebNLG: texts from triples of DBpedia.

The challenge of 2017: training and development sets, and a test set half of whose triples are of
categories that training has, and half of others. Scores are given for either half and for both.

Source: Gardent et al. 2017, "The WebNLG challenge: generating text from RDF data".
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lora_jax.data.names import known
from lora_jax.data.readers import Fields, Row, read_json
from lora_jax.data.reading import Reading
from lora_jax.data.references import group_references
from lora_jax.data.sources import Source
from lora_jax.data.text_task import TextRecord, TextTask
from lora_jax.data.triples import describe_triples

SOURCE = Source(
    "web_nlg",
    {"train": ("train.json",), "validation": ("dev.json",), "test": ("test.json",)},
    "GitHub's microsoft/LoRA, in examples/NLG/data/webnlg_challenge_2017",
)
ABOUT = "The WebNLG challenge of 2017, tested on {} categories."
TESTS = ("all", "seen", "unseen")


def web_nlg(
    directory: str | Path | None = None, *, test: str = "all", bad_rows: str = "raise"
) -> TextTask:
    """Reads WebNLG.

    Args:
      directory: as of `sources.read_split`.
      test: categories of the test set: "all", those "seen" in training, or the "unseen".
      bad_rows: "raise" or "skip".

    Returns:
      The task. `fields["category"]` is that of the triples.
    """
    known(test, TESTS, "choice of test")
    reading = Reading(SOURCE, directory, bad_rows, _read)
    train, validation, tested = (reading.records(split, _record) for split in SOURCE.files)
    seen = {record.fields["category"] for record in train}
    wanted = {"all": (True, False), "seen": (True,), "unseen": (False,)}[test]
    tested = tuple(r for r in tested if (r.fields["category"] in seen) in wanted)
    return TextTask(
        *("web_nlg", ABOUT.format(test), train, group_references(tested)),
        metrics=("bleu", "meteor_exact_stem", "ter"),
        max_new_tokens=128,
        validation=group_references(validation),
        skipped=tuple(reading.skipped),
    )


def _read(path: Path) -> Iterator[Row]:
    """A row for each text of each set of triples; those that judges called bad are none."""
    for entry in read_json(path)["entries"]:
        for number, content in entry.items():
            place = f"{path}, entry {number}"
            for text in content.get("lexicalisations", ()):
                if text.get("comment", "good") == "good":
                    yield {**content, "text": text.get("lex")}, place


def _record(fields: Fields, place: str) -> TextRecord:
    triples = [
        tuple(triple.get(part) for part in ("subject", "property", "object"))
        for triple in fields.get("modifiedtripleset", ())
    ]
    category = {"category": fields.get("category", "")}
    return describe_triples(triples, fields, "text", fields_kept=category, place=place)
