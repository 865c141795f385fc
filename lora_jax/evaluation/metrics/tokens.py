"""How the published metrics cut English texts into tokens."""

import functools
import re
from collections.abc import Callable


def mteval_tokens(text: str, *, lowercase: bool = False) -> list[str]:
    """Tokens of NIST's script mteval-v13a ("13a"), by sacrebleu.

    Args:
      text: Any text.
      lowercase: Whether case is ignored, as in the script unless it is told otherwise.

    Returns:
      Words, and punctuation marks of their own.

    >>> mteval_tokens("A 4.5-star pub, near Café Rouge.")
    ['A', '4.5', '-', 'star', 'pub', ',', 'near', 'Café', 'Rouge', '.']
    """
    return _mteval()(text.lower() if lowercase else text).split()


def caption_tokens(text: str) -> list[str]:
    """Words of the Penn Treebank in lower case without punctuation, as coco-caption has them.

    The original calls Stanford's PTBTokenizer, a Java program. This is NLTK's tokeniser of the
    same conventions, and does what it leaves out: stops, quotes and hyphens beside a word are
    cut off inside a text as well, and pounds are written "#".

    Args:
      text: Any text.

    Returns:
      Its words.

    >>> caption_tokens("It's cheap. The Mill isn't family-friendly!")
    ['it', "'s", 'cheap', 'the', 'mill', 'is', "n't", 'family-friendly']
    """
    text = _INNER_STOP.sub(" . ", _LOOSE.sub(r" \g<0> ", text))
    words = _treebank()(_POUNDS.sub(" # ", text))
    return [word for word in (word.lower() for word in words) if word not in _PUNCTUATION]


# A stop before a space ends a sentence, unless it ends an abbreviation such as "U.K." or "Mr.".
_INNER_STOP = re.compile(r"(?<!\.\w)(?<!\b[A-Za-z])(?<!\b[DMS]r)(?<!\bMrs)(?<!\bSt)\.+(?=\s|$)")
# An opening quote, but not that of 's or 'll; a hyphen or a stop beside a single word.
_LOOSE = re.compile(r"(?<!\w)'(?=\w{3}|\d)|(?<=\w)-(?=\s)|(?<=\s)[-.](?=[A-Za-z])")
_POUNDS = re.compile(r"-?£")
# As listed by coco-caption's ptbtokenizer.py, with brackets and quotes as NLTK writes them.
_PUNCTUATION = frozenset(
    ["''", "'", "``", "`", "(", ")", "{", "}", ".", "?", "!", ",", ":", "-", "--", "...", ";"]
)


@functools.cache
def _mteval() -> Callable[[str], str]:
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    return Tokenizer13a()


@functools.cache
def _treebank() -> Callable[[str], list[str]]:
    from nltk.tokenize.treebank import TreebankWordTokenizer

    return TreebankWordTokenizer().tokenize
