"""How captions are cut, on what Stanford's tokeniser is known to do."""

import pytest

from lora_jax.evaluation.metrics.tokens import caption_tokens


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("It is cheap... It isn't.", "it is cheap it is n't"),
        ("More than £30, or £20-25.", "more than # 30 or # 20-25"),
        ("£20-£25 (lunch)", "# 20 # 25 lunch"),
        ("The U.K. pub of Mr. Day. St. Ives is near.", "the u.k. pub of mr. day st. ives is near"),
        ("The 'Aromi' is 'the best', they'll say", "the aromi is the best they 'll say"),
        ("a non- family place .price is low", "a non family place price is low"),
        ("", ""),
    ],
)
def test_captions_are_cut_into_words_without_punctuation(text, words):
    assert caption_tokens(text) == words.split()
