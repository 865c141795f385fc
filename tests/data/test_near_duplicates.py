"""Near-duplicates: against the definition, pair by pair."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from lora_jax.data.near_duplicates import shingles, similarity, without_near_duplicates

# Few words, so that texts often resemble each other.
WORDS = ["open", "close", "read", "the", "a", "file"]
texts = st.lists(st.lists(st.sampled_from(WORDS), max_size=8).map(" ".join), max_size=12)


@given(texts, st.sampled_from([0.3, 0.5, 0.8, 1.0]))
def test_a_text_is_kept_unless_one_kept_before_it_is_similar(texts, threshold):
    runs = [shingles(text) for text in texts]
    kept = []
    for index, own in enumerate(runs):
        if all(similarity(own, runs[other]) < threshold for other in kept):
            kept.append(index)
    assert without_near_duplicates(texts, threshold) == kept


def test_case_punctuation_and_white_space_make_no_difference():
    texts = ["Return the file's name.", "return   the FILE'S name", "Return the socket's peer."]
    assert without_near_duplicates(texts, 1.0) == [0, 2]


def test_similarity_is_the_share_of_word_pairs_in_common():
    for first, second, expected in (
        ("open the file", "open the socket", 1 / 3),
        ("open the file", "open the file", 1.0),
        ("open the file", "close a socket", 0.0),
        ("open", "open", 1.0),
    ):
        assert similarity(shingles(first), shingles(second)) == expected
        assert similarity(shingles(second), shingles(first)) == expected


def test_no_two_texts_that_are_kept_are_similar():
    words = ["read", "write", "open", "close"]
    texts = [" ".join(order) for order in itertools.permutations(words)]
    kept = without_near_duplicates(texts, 0.5)
    for one, other in itertools.combinations(kept, 2):
        assert similarity(shingles(texts[one]), shingles(texts[other])) < 0.5
