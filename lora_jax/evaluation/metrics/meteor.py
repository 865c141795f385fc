"""METEOR: aligned words, and how little their order is broken, by NLTK."""

import functools
from collections.abc import Sequence
from typing import Any

from lora_jax.evaluation.metrics.tokens import mteval_tokens


def meteor(prediction: str, references: Sequence[str]) -> float:
    """METEOR with its three stages: equal words, equal stems, and synonyms of WordNet.

    Recall weighs nine times precision, and broken order costs up to half (alpha 0.9, beta 3,
    gamma 0.5); the best of several references counts; lower-case tokens of mteval-v13a. Tables of
    text generation mostly print METEOR 1.5, a Java program with other weights and paraphrases
    (E2E, DART): the two are not comparable. NLTK matches words from the end of the text, where the
    paper looks for the alignment with the fewest crossings.

    Args:
      prediction: The text to score.
      references: One or more texts.

    Returns:
      A number in [0, 1]. Texts of m equal words score 1 - 0.5 / m³.

    Raises:
      FileNotFoundError: If NLTK has no WordNet; it says where it was looked for.

    Source: Lavie and Agarwal 2007, "METEOR: an automatic metric for MT evaluation with high levels
    of correlation with human judgments".
    """
    return _best(prediction, references, _wordnet())


def meteor_exact_stem(prediction: str, references: Sequence[str]) -> float:
    """METEOR without synonyms: its stages of equal words and of equal stems only.

    It needs no data, and is never above `meteor`, which see.

    Args:
      prediction: The text to score.
      references: One or more texts.

    Returns:
      A number in [0, 1].

    >>> meteor_exact_stem("the cats sat", ["the cat sat down"]).__round__(4)
    0.755
    """
    return _best(prediction, references, _NoSynonyms())


def _best(prediction: str, references: Sequence[str], wordnet: Any) -> float:
    from nltk.translate.meteor_score import meteor_score

    texts = [mteval_tokens(text) for text in references]
    return float(meteor_score(texts, mteval_tokens(prediction), wordnet=wordnet))


class _NoSynonyms:
    """Stands where NLTK wants WordNet, and knows no word."""

    def synsets(self, _: str) -> list[Any]:
        return []


@functools.cache
def _wordnet() -> Any:
    from nltk.corpus import wordnet
    from nltk.data import path

    try:
        wordnet.ensure_loaded()
    except LookupError:
        raise FileNotFoundError(
            "METEOR's synonyms need WordNet, and NLTK finds none in "
            f"{', '.join(path)}: run `python -m nltk.downloader wordnet`, or unpack it into "
            "corpora/wordnet of a folder named by NLTK_DATA; meteor_exact_stem needs none"
        ) from None
    return wordnet
