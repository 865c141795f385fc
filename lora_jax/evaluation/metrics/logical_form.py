"""Logical-form accuracy of WikiSQL: the same query, clause by clause."""

import json
import re
from collections.abc import Hashable, Sequence

_QUERY = re.compile(r"select (.+?) from (.+?)(?: where (.+))?")


def logical_form(prediction: str, references: Sequence[str]) -> float:
    """Whether a query is that of a reference, without running either.

    The selected column, the aggregation and the set of conditions must agree; the order of the
    conditions is free, and so is case. A query is written as WikiSQL prints it, "SELECT COUNT
    player FROM table WHERE team = Jazz AND year > 1996", or as its JSON, {"sel": …, "agg": …,
    "conds": [[…, …, …], …]}; the two forms are never equal.

    Args:
      prediction: The generated query.
      references: One or more queries that are right.

    Returns:
      1 or 0.

    Raises:
      ValueError: If a reference is not such a query.

    Source: Zhong et al. 2017, "Seq2SQL: generating structured queries from natural language using
    reinforcement learning", section 4, and `Query.__eq__` of its repository.

    >>> right = "SELECT player FROM table WHERE team = Jazz AND year > 1996"
    >>> logical_form("select player from table where year > 1996 and team = jazz", [right])
    1.0
    """
    right = set()
    for text in references:
        query = _clauses(text)
        if query is None:
            raise ValueError(f"a reference is not a query of WikiSQL: {text!r}")
        right.add(query)
    return float(_clauses(prediction) in right)


def _clauses(text: str) -> Hashable | None:
    if text.lstrip().startswith("{"):
        return _clauses_of_json(text)
    match = _QUERY.fullmatch(" ".join(text.lower().split()).removesuffix(";").rstrip())
    if match is None:
        return None
    # A condition whose value holds " and " falls into the same pieces on both sides.
    return match[1], match[2], frozenset((match[3] or "").split(" and "))


def _clauses_of_json(text: str) -> Hashable | None:
    try:
        query = json.loads(text)
        conditions = [
            (int(column), int(operator), str(value).lower())
            for column, operator, value in query["conds"]
        ]
        return int(query["sel"]), int(query["agg"]), frozenset(conditions)
    except (ValueError, KeyError, TypeError):
        return None
