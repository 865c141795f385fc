"""The final answer of a worked solution, as GSM8K marks it."""

import re
from collections.abc import Sequence

# The official pattern: one space after the mark, then a number with its commas.
_ANSWER = re.compile(r"#### (\-?[0-9\.\,]+)")


def final_answer(prediction: str, references: Sequence[str]) -> float:
    r"""Whether a solution of GSM8K ends in the right number.

    The number after the first "#### " of the solution must be that of a reference, digit for digit
    once commas are gone. A solution without the mark is wrong.

    Args:
      prediction: A solution.
      references: One or more solutions that are right, each with its mark.

    Returns:
      1 or 0.

    Raises:
      ValueError: If a reference has no such number.

    Source: Cobbe et al. 2021, "Training verifiers to solve math word problems", and
    `extract_answer` of its repository.

    >>> final_answer("18 a day, 7 days a week\n#### 1,260", ["18 * 70 = 1260\n#### 1260"])
    1.0
    """
    right = set()
    for text in references:
        number = _number(text)
        if number is None:
            raise ValueError(f"a reference has no final answer '#### NUMBER': {text!r}")
        right.add(number)
    return float(_number(prediction) in right)


def _number(text: str) -> str | None:
    match = _ANSWER.search(text)
    return match[1].replace(",", "") if match else None
