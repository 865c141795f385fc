"""E2E NLG: descriptions of restaurants from lists of attributes.

Several people described each list (a meaning representation), so a system's text is compared with
all their texts: the records to test on are the distinct lists, each with all its references.

Source: Novikova et al. 2017, "The E2E dataset: new challenges for end-to-end generation".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from lora_jax.data.readers import Fields, text
from lora_jax.data.reading import Reading
from lora_jax.data.references import group_references
from lora_jax.data.sources import Source
from lora_jax.data.text_task import TextRecord, TextTask, ask

SOURCE = Source(
    "e2e_nlg",
    {
        "train": ("trainset.csv",),
        "validation": ("devset.csv",),
        "test": ("testset_w_refs.csv",),
    },
    "GitHub's tuetschek/e2e-dataset",
)
ABOUT = "The E2E challenge's training, development and test sets, as published."
# As the challenge's scripts have them: case is ignored.
METRICS = ("bleu_lowercase", "nist", "meteor_exact_stem", "rouge_l_caption", "cider")
_ATTRIBUTE = re.compile(r"([^\[\],]+)\[([^\[\]]*)\]")


def e2e_nlg(directory: str | Path | None = None, *, bad_rows: str = "raise") -> TextTask:
    """Reads E2E NLG.

    Args:
      directory: holds the three files; by default as of `sources.read_split`.
      bad_rows: "raise" or "skip".

    Returns:
      The task: 42,061 texts to train on, 547 lists of attributes to choose by and 630 to test on.
      `fields["mr"]` is a list as published.
    """
    reading = Reading(SOURCE, directory, bad_rows)
    train, validation, test = (reading.records(split, _record) for split in SOURCE.files)
    return TextTask(
        *("e2e_nlg", ABOUT, train, group_references(test)),
        metrics=METRICS,
        max_new_tokens=128,
        validation=group_references(validation),
        skipped=tuple(reading.skipped),
    )


def _record(fields: Fields, place: str) -> TextRecord:
    mr = text(fields, "mr")
    prompt = " | ".join(f"{name} : {value}" for name, value in attributes(mr))
    return ask(prompt, text(fields, "ref"), fields={"mr": mr}, place=place)


def attributes(mr: str) -> Sequence[tuple[str, str]]:
    """Takes a meaning representation apart.

    Raises:
      ValueError: it is none.

    >>> attributes("name[The Vaults], eatType[pub]")
    [('name', 'The Vaults'), ('eatType', 'pub')]
    """
    found = [(name.strip(), value) for name, value in _ATTRIBUTE.findall(mr)]
    if ", ".join(f"{name}[{value}]" for name, value in found) != mr.strip():
        raise ValueError(f"{mr!r} is no list of attributes such as name[The Vaults], eatType[pub]")
    return found
