"""ROUGE: the words, pairs of words and common subsequences shared with a reference."""

import functools
from collections.abc import Sequence
from typing import Any

from lora_jax.evaluation.metrics.tokens import caption_tokens


def rouge_1(prediction: str, references: Sequence[str]) -> float:
    """F1 of the words shared with the best reference, by rouge-score.

    Lower-case runs of letters and digits, stemmed by Porter's algorithm, as the original
    ROUGE-1.5.5 does with `-m`; of several references, the one of the highest F1.

    Args:
      prediction: The summary to score.
      references: One or more summaries.

    Returns:
      A number in [0, 1].

    Source: Lin 2004, "ROUGE: a package for automatic evaluation of summaries".

    >>> rouge_1("the cats sat", ["a cat sat down"]).__round__(4)
    0.5714
    """
    return _best("rouge1", prediction, references)


def rouge_2(prediction: str, references: Sequence[str]) -> float:
    """F1 of the pairs of neighbouring words shared with the best reference; see `rouge_1`.

    >>> rouge_2("the cats sat", ["a cat sat down"])
    0.4
    """
    return _best("rouge2", prediction, references)


def rouge_l(prediction: str, references: Sequence[str]) -> float:
    """F1 of the longest common subsequence with the best reference; see `rouge_1`.

    The whole text is one sequence, whatever its lines: for the ROUGE-L of summaries of several
    sentences, each on its line, see `rouge_l_summary`.

    >>> rouge_l("the cats sat", ["a cat sat down"]).__round__(4)
    0.5714
    """
    return _best("rougeL", prediction, references)


def rouge_l_summary(prediction: str, references: Sequence[str]) -> float:
    r"""F1 of the union of common subsequences, sentence by sentence; see `rouge_1`.

    Each line is a sentence (Lin 2004, section 3.2). Papers on long summaries, GovReport's among
    them, print this one as ROUGE-L.

    >>> rouge_l_summary("it rose\nit fell", ["it fell\nit rose"])
    1.0
    """
    return _best("rougeLsum", prediction, references)


def rouge_l_caption(prediction: str, references: Sequence[str]) -> float:
    """ROUGE-L of coco-caption, which the E2E challenge reports.

    It is not `rouge_l`: recall counts 1.44 times precision, both are taken at their best over the
    references, perhaps of different ones, and nothing is stemmed. For tokens see `caption_tokens`.

    Args:
      prediction: The caption to score.
      references: One or more captions.

    Returns:
      A number in [0, 1].

    Source: Chen et al. 2015, "Microsoft COCO captions: data collection and evaluation server",
    section 4.2, with beta = 1.2.

    >>> rouge_l_caption("the cat sat", ["a cat sat down", "the dog"]).__round__(4)
    0.5571
    """
    scores = [_scorer("caption").score(text, prediction)["rougeL"] for text in references]
    precision = max(score.precision for score in scores)
    recall = max(score.recall for score in scores)
    if precision == 0 or recall == 0:
        return 0.0
    weight = 1.2**2
    return float((1 + weight) * precision * recall / (recall + weight * precision))


def _best(kind: str, prediction: str, references: Sequence[str]) -> float:
    return float(_scorer(kind).score_multi(references, prediction)[kind].fmeasure)


class _Captions:
    """The tokeniser of captions, as rouge-score wants one."""

    def tokenize(self, text: str) -> list[str]:
        return caption_tokens(text)


@functools.cache
def _scorer(kind: str) -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    if kind == "caption":
        return RougeScorer(["rougeL"], tokenizer=_Captions())
    return RougeScorer([kind], use_stemmer=True)
