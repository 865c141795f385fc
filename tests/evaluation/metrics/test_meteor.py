"""METEOR against its formula, with synonyms from a WordNet of one entry."""

import os
import subprocess
import sys

import pytest

from lora_jax.evaluation import METRICS

# Two synonyms; data.noun is addressed by the byte at which a line starts.
WORDNET = {
    "data.noun": "00000000 06 n 02 car 0 auto 0 000 | a motor vehicle\n",
    "index.noun": "auto n 1 0 1 0 00000000\ncar n 1 0 1 0 00000000\n",
    "index.sense": "auto%1:06:00:: 00000000 1 0\ncar%1:06:00:: 00000000 1 0\n",
    "lexnames": "".join(f"{number:02} noun.{number} 1\n" for number in range(45)),
}
EMPTY = [
    *(f"{kind}.{part}" for kind in ("data", "index") for part in ("adj", "adv", "verb")),
    *(f"{part}.exc" for part in ("adj", "adv", "noun", "verb")),
    "cntlist.rev",
]


def meteor(matches, chunks, words, reference_words):
    """The score of Lavie and Agarwal (2007), with alpha 0.9, beta 3 and gamma 0.5."""
    precision, recall = matches / words, matches / reference_words
    mean = precision * recall / (0.9 * precision + 0.1 * recall)
    return mean * (1 - 0.5 * (chunks / matches) ** 3)


def run_meteor(folder, tmp_path):
    """Scores one text in a process of its own: NLTK keeps the WordNet that it finds first."""
    program = (
        "from lora_jax.evaluation import METRICS\n"
        "print(METRICS['meteor'](['my auto stops here'], [['the car is gone', 'my car stopped']]))"
    )
    environment = os.environ | {"NLTK_DATA": str(folder), "HOME": str(tmp_path)}
    return subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("prediction", "reference", "counts"),
    [
        ("the cats sat", "the cat sat down", (3, 1, 3, 4)),
        ("down sat the cat", "the cat sat down", (4, 3, 4, 4)),
        ("a dog ran", "the dog", (1, 1, 3, 2)),
    ],
)
def test_equal_words_and_stems_are_matched_and_broken_order_costs(prediction, reference, counts):
    value = METRICS["meteor_exact_stem"]([prediction], [[reference]])
    assert value == pytest.approx(meteor(*counts), rel=1e-6)


def test_without_synonyms_another_word_for_the_same_is_a_miss():
    assert METRICS["meteor_exact_stem"](["auto"], [["car"]]) == 0


def test_synonyms_of_wordnet_are_matched(tmp_path):
    folder = tmp_path / "corpora" / "wordnet"
    folder.mkdir(parents=True)
    for name, text in (WORDNET | dict.fromkeys(EMPTY, "")).items():
        (folder / name).write_text(text)
    done = run_meteor(tmp_path, tmp_path)
    assert done.returncode == 0, done.stderr
    # my, auto ~ car by synonym, stops ~ stopped by stem: three of four words in one run.
    assert float(done.stdout) == pytest.approx(meteor(3, 1, 4, 3), rel=1e-6)


def test_a_missing_wordnet_is_said_with_where_it_was_looked_for_and_what_needs_none(tmp_path):
    done = run_meteor(tmp_path / "nowhere", tmp_path)
    assert done.returncode != 0
    assert "FileNotFoundError: METEOR's synonyms need WordNet" in done.stderr
    assert str(tmp_path / "nowhere") in done.stderr
    assert "meteor_exact_stem needs none" in done.stderr
