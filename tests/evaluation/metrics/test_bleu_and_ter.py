"""Corners of BLEU, NIST and TER worked out by hand."""

import pytest

from lora_jax.evaluation import METRICS


def test_orders_without_a_match_are_smoothed_as_mteval_does():
    # 4 of 5 words, 1 of 4 pairs, no triple, no quadruple: 1/2 and 1/4 of a match for the last two.
    value = METRICS["bleu"](["a b d c f"], [["a b c d e"]])
    assert value == pytest.approx(100 * (4 / 5 * 1 / 4 * 1 / (2 * 3) * 1 / (4 * 2)) ** 0.25)


def test_the_closest_reference_in_length_counts_for_brevity():
    # Every n-gram matches; four words against five or eight: exp(1 - 5 / 4).
    value = METRICS["bleu"](["a b c d"], [["a b c d e", "a b c d e f g h"]])
    assert value == pytest.approx(100 * 0.7788007830714049)


def test_case_counts_unless_the_metric_says_otherwise():
    texts = ["The Mill is a pub"], [["the mill is a pub"]]
    assert METRICS["bleu"](*texts) < 100
    assert METRICS["bleu_lowercase"](*texts) == 100


def test_a_corpus_is_not_the_mean_of_its_texts():
    predictions, references = ["a b c d", "x x"], [["a b c d"], ["y y y y y y y y"]]
    both = METRICS["bleu"](predictions, references)
    # 4/6 words, 3/4 pairs, 2/2, 1/1; 6 words for 12.
    assert both == pytest.approx(100 * (4 / 6 * 3 / 4) ** 0.25 * 0.36787944117144233)


def test_a_moved_run_of_words_is_one_edit():
    assert METRICS["ter"](["d e a b c"], [["a b c d e"]]) == pytest.approx(100 / 5)


def test_the_edits_are_those_of_the_nearest_reference_over_their_mean_length():
    assert METRICS["ter"](["a b"], [["a b c d", "a c"]]) == pytest.approx(100 * 1 / 3)
