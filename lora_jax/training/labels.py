"""Labels: one tree of names says which arrays train, and under which settings.

A rule is `(regex, label)`. The first rule whose regex matches the whole '/'-joined path of an
array wins; the label `None` freezes it. Nothing is frozen, or trained, because no rule spoke of
it.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence

import jax
from jaxtyping import PyTree

from lora_jax.lifting import path_name
from lora_jax.models.unstack import stacked
from lora_jax.nearest import name_nearest

Rule = tuple[str, str | None]

FROZEN = "frozen"

LORA: tuple[Rule, ...] = (
    (r"adapter/.*", "adapter"),
    (r"head/.*", "head"),
    (r"params/.*", None),
)
HEAD_ONLY: tuple[Rule, ...] = (
    (r"head/.*", "head"),
    (r"(params|adapter)/.*", None),
)
FULL: tuple[Rule, ...] = (
    (r"params/.*", "params"),
    (r"head/.*", "head"),
)


def label(variables: PyTree, rules: Sequence[Rule], frozen: Sequence[str] = ()) -> PyTree:
    """Labels every array of a tree.

    Args:
      variables: any pytree of arrays or abstract shapes, such as
        `{"params": ..., "adapter": ..., "head": ...}`.
      rules: `(regex, label)` pairs, tried in order against whole paths such as
        `adapter/layers/q_proj/kernel/a`. A label of `None` freezes what it matches.
      frozen: paths within `variables["adapter"]` of arrays that never train, whatever the rules
        say: `lifted.frozen`, for methods with fixed projections.

    Returns:
      The same tree with a label in place of each array; frozen arrays are labelled `FROZEN`.

    Raises:
      ValueError: an array that no rule matches, or a rule that matches nothing, or one whose every
        match was taken by the rules before it; or a path of `frozen` that is not there.

    Example:
      >>> label({"params": {"w": 0.0}, "head": {"w": 0.0}}, HEAD_ONLY)
      {'head': {'w': 'head'}, 'params': {'w': 'frozen'}}
    """
    leaves, structure = jax.tree.flatten_with_path(variables)
    paths = [path_name(path) for path, _ in leaves]
    winners = {path: _first_match(path, rules) for path in paths}
    _check_every_rule_is_used(winners, rules)
    for path in (f"adapter/{path}" for path in frozen):
        if path not in winners:
            raise ValueError(f"{path!r} is to be frozen, but the variables hold no such array")
        winners[path] = (path, None)
    return jax.tree.unflatten(structure, [winners[path][1] or FROZEN for path in paths])


def lora_plus(labels: PyTree, ratio: float = 16.0) -> tuple[PyTree, dict[str, dict[str, float]]]:
    """LoRA+: B, and DoRA's magnitudes, learn faster than A.

    Hayou et al., "LoRA+: Efficient Low Rank Adaptation of Large Models", arXiv 2402.12354; groups
    as PEFT's `create_loraplus_optimizer` makes them, but that it gives adapters of embeddings a
    rate of their own.

    Args:
      labels: of `label`, with factors labelled "adapter".
      ratio: of B's learning rate to A's, at least 1.

    Returns:
      The labels, B's being "adapter_b", and the `groups` of the optimiser's config.

    Raises:
      ValueError: the ratio is below 1, or no B is labelled "adapter".

    Example:
      >>> lora_plus({"adapter": {"w": {"a": "adapter", "b": "adapter"}}}, ratio=4)
      ({'adapter': {'w': {'a': 'adapter', 'b': 'adapter_b'}}}, {'adapter_b': {'multiplier': 4}})
    """
    if not ratio >= 1:
        raise ValueError(f"the ratio of LoRA+ is at least 1, not {ratio!r}")

    def relabel(path: tuple, name: str) -> str:
        fast = name == "adapter" and path_name(path).split("/")[-1] in ("b", "m")
        return "adapter_b" if fast else name

    labels = jax.tree.map_with_path(relabel, labels)
    if "adapter_b" not in jax.tree.leaves(labels):
        raise ValueError("LoRA+ needs factors b that train under the label 'adapter'")
    return labels, {"adapter_b": {"multiplier": ratio}}


def split(variables: PyTree, labels: PyTree) -> tuple[PyTree, PyTree]:
    """Splits a tree into `(trainable, frozen)`.

    Both keep the structure of the whole, with `None`, an empty subtree, where the other has an
    array; so neither `jax.grad` nor an optimiser ever sees an array of the other.

    Args:
      variables: a pytree.
      labels: its labels, as `label` gives them.

    Returns:
      The trainable part and the frozen part; `join` puts them together again.

    Example:
      >>> split({"a": 1, "w": 2}, {"a": "adapter", "w": FROZEN})
      ({'a': 1, 'w': None}, {'a': None, 'w': 2})
    """
    trainable = jax.tree.map(lambda x, name: None if name == FROZEN else x, variables, labels)
    frozen = jax.tree.map(lambda x, name: x if name == FROZEN else None, variables, labels)
    return trainable, frozen


def join(trainable: PyTree, frozen: PyTree) -> PyTree:
    """Puts the two parts of `split` together again.

    Args:
      trainable: the first part.
      frozen: the second part, also as `unstack` makes it.

    Returns:
      The whole tree.

    Example:
      >>> join({"a": 1, "w": None}, {"a": None, "w": 2})
      {'a': 1, 'w': 2}
    """
    return jax.tree.map(
        lambda t, f: stacked(f) if t is None else t, trainable, frozen, is_leaf=_is_none
    )


def summary(variables: PyTree, labels: PyTree) -> dict[str, int]:
    """Counts the parameters under each label, for the log.

    Args:
      variables: a pytree of arrays or abstract shapes.
      labels: its labels.

    Returns:
      label -> number of parameters, largest first.

    Example:
      >>> w = jax.ShapeDtypeStruct((4, 8), "float32")
      >>> summary({"params": {"w": w}, "head": {"w": w, "v": w}}, {"params": {"w": FROZEN},
      ...         "head": {"w": "head", "v": "head"}})
      {'head': 64, 'frozen': 32}
    """
    counts: Counter[str] = Counter()
    for x, name in zip(jax.tree.leaves(variables), jax.tree.leaves(labels), strict=True):
        counts[name] += math.prod(x.shape)
    return dict(counts.most_common())


def _first_match(path: str, rules: Sequence[Rule]) -> Rule:
    for rule in rules:
        if re.fullmatch(rule[0], path):
            return rule
    raise ValueError(
        f"no rule matches {path!r}; the rules are {[regex for regex, _ in rules]}. "
        f"To freeze it, add ({path!r}, None)."
    )


def _check_every_rule_is_used(winners: Mapping[str, Rule], rules: Sequence[Rule]) -> None:
    for regex, name in rules:
        if (regex, name) in winners.values():
            continue
        taken = [path for path in winners if re.fullmatch(regex, path)]
        if not taken:
            raise ValueError(
                f"the rule ({regex!r}, {name!r}) matches nothing; nearest paths: "
                f"{name_nearest(regex, winners)}"
            )
        if name is not None:
            # Freezing "all the rest" when no rest is left hides no mistake; losing a label does.
            raise ValueError(
                f"the rule ({regex!r}, {name!r}) never wins: {taken[0]!r} already matched "
                f"{winners[taken[0]][0]!r}, which stands before it. Move it up."
            )


def _is_none(x: object) -> bool:
    return x is None
