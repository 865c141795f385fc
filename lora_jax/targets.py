r"""Which weights: patterns -> weights, or an error that names the nearest ones.

A pattern is, in this order:

* `ALL_LINEAR`: every weight that is only ever multiplied with activations, but the output head;
* a regular expression (it holds one of ``* + ? [ ] ( ) { } | ^ $ \``), over the whole path;
* a name: the path, its end (``"attention/query/kernel"``), or the end of the path of the module
  that holds the weight (``"query"``, ``"attention.query"``);
* a role of the table below, where no weight bears that name.

Methods that learn an array entry by entry (`Full`, `BitFit`, `LayerNormTuning`) fit biases and
norms too. For them there are `BIASES` and `NORMS`, and the name of a module means all its arrays.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from lora_jax.lifting import Method, Weight, is_elementwise
from lora_jax.nearest import nearest

ALL_LINEAR = "all-linear"
BIASES = "all-biases"
NORMS = "all-norms"

Targets = str | Sequence[str] | Mapping[str, Any]

# What a role means in families that split it: a gated MLP has two matrices where others have one.
ROLES = {
    "fc1": ("gate_proj", "up_proj"),
    "fc2": ("down_proj",),
    "qkv": ("q_proj", "k_proj", "v_proj"),
}

# The output head, a language model's or whatever lies under "head", is left out of `ALL_LINEAR`.
HEAD = "lm_head"
HEADS = "head/"

# Names that frameworks give to the array inside a module.
ARRAY_NAMES = ("kernel", "weight", "embedding", "embeddings", "w")

# What frameworks call a bias, and the modules of normalisations ("attention_norm", "ln_1").
BIAS_NAMES = ("bias", "biases", "b")
_NORM = re.compile(r"norm|(^|_)ln(_|\d|$)", re.IGNORECASE)

_REGEX = re.compile(r"[*+?\[\](){}|^$\\]")


def choose(
    targets: Targets,
    exclude: Sequence[str],
    method: Method,
    weights: Mapping[str, Weight],
    paths: Sequence[str],
) -> dict[str, Method]:
    """The method of each targeted weight.

    Args:
      targets: a pattern, several, or a mapping from patterns to a rank, a method or None (the
        default method). Where several match a weight, the first wins.
      exclude: patterns of weights to leave out.
      method: for targets that bring none of their own.
      weights: all float arrays, by path. Those of fewer than two axes are candidates for
        elementwise methods alone.
      paths: the paths of all leaves, for error messages.

    Raises:
      ValueError: no targets, a pattern that matches nothing, or nothing left after `exclude`.
    """
    wanted = _as_mapping(targets)
    if not wanted:
        raise ValueError("no targets: name at least one weight, or use lora.ALL_LINEAR")
    methods = {pattern: _method_for(own, method, pattern) for pattern, own in wanted.items()}
    every = any(map(is_elementwise, methods.values()))
    excluded = {
        path for pattern in _as_sequence(exclude) for path in match(pattern, weights, paths, every)
    }
    chosen: dict[str, Method] = {}
    for pattern, own in methods.items():
        for path in match(pattern, weights, paths, is_elementwise(own)):
            if path not in excluded:
                chosen.setdefault(path, own)
    if not chosen:
        raise ValueError(
            f"exclude={tuple(_as_sequence(exclude))} leaves none of the targets {tuple(wanted)}"
        )
    return chosen


def match(
    pattern: str, weights: Mapping[str, Weight], paths: Sequence[str] = (), every: bool = False
) -> list[str]:
    """The paths of the weights that a pattern means.

    Args:
      pattern: see above.
      weights: all float arrays, by path.
      paths: the paths of all leaves, for error messages.
      every: whether any array will do, of any number of axes, however the model uses it.

    Raises:
      ValueError: it matches none; the message names the nearest.
    """
    if not isinstance(pattern, str):
        raise ValueError(f"a target must be a string, not {pattern!r}")
    if not every and pattern in (BIASES, NORMS):
        raise ValueError(f"target {pattern!r} is for Full, BitFit or LayerNormTuning")
    found = _find_any(pattern, weights) if every else _find(pattern, weights)
    if not found:
        raise ValueError(_no_match(pattern, weights, paths))
    return found


def _find_any(pattern: str, weights: Mapping[str, Weight]) -> list[str]:
    """The arrays a pattern means to a method that fits any array."""
    if pattern == BIASES:
        return [path for path in weights if path.split("/")[-1] in BIAS_NAMES]
    if pattern == NORMS:
        return [path for path in weights if _NORM.search(_holder(path).split("/")[-1])]
    if pattern == ALL_LINEAR:
        return _find(pattern, weights)
    if _REGEX.search(pattern):
        expression = _compile(pattern)
        return [
            path
            for path in weights
            if expression.fullmatch(path) or expression.fullmatch(_holder(path))
        ]
    named = lambda name: [p for p in weights if _ends(name, p) or _ends(name, _holder(p))]
    return named(pattern) or [path for part in ROLES.get(pattern, ()) for path in named(part)]


def _holder(path: str) -> str:
    """The module that holds an array of any name; of an array in no module, the array itself."""
    return path.rpartition("/")[0] or path


def _find(pattern: str, weights: Mapping[str, Weight]) -> list[str]:
    if pattern == ALL_LINEAR:
        return [path for path, w in weights.items() if w.is_linear and not _is_head(path)]
    weights = {path: weight for path, weight in weights.items() if len(weight.shape) >= 2}
    used = [path for path, weight in weights.items() if weight.has_roles]
    if _REGEX.search(pattern):
        expression = _compile(pattern)
        return [
            path
            for path in used
            if expression.fullmatch(path) or expression.fullmatch(_module(path))
        ]
    if found := [path for path in used if _named(pattern, path)]:
        return found
    # A weight whose use the trace did not understand must be named in full: it will be dense.
    if pattern in weights:
        return [pattern]
    return [path for part in ROLES.get(pattern, ()) for path in used if _named(part, path)]


def _is_head(path: str) -> bool:
    return _named(HEAD, path) or path.startswith(HEADS)


def _named(name: str, path: str) -> bool:
    """Whether `name` is the path, its end, or the end of the path of the module that holds it."""
    return _ends(name, path) or _ends(name, _module(path))


def _ends(name: str, path: str) -> bool:
    wanted = name.replace(".", "/").strip("/").split("/")
    return path.split("/")[-len(wanted) :] == wanted


def _module(path: str) -> str:
    """The path without the name of the array inside its module.

    >>> _module("layers/q_proj/kernel")
    'layers/q_proj'
    """
    module, _, array = path.rpartition("/")
    return module if module and array in ARRAY_NAMES else path


def _compile(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ValueError(f"target {pattern!r} is not a valid regular expression: {error}") from None


def _no_match(pattern: str, weights: Mapping[str, Weight], paths: Sequence[str]) -> str:
    used = [path for path, weight in weights.items() if weight.has_roles]
    others = [path for path in paths if path not in used and _named(pattern, path)]
    if others and not _REGEX.search(pattern):
        return (
            f"target {pattern!r} means {others[0]!r}, which is no weight that is multiplied with "
            "activations or looked up"
        )
    names = sorted(
        {part for path in used for part in (path, _module(path), _module(path).split("/")[-1])}
    )
    near = nearest(pattern, names, 3, likeness=0.5)
    modules = sorted({_module(path).split("/")[-1] for path in used})
    hint = f"; nearest: {', '.join(map(repr, near))}" if near else ""
    known = ", ".join(modules)
    return f"target {pattern!r} matches no weight{hint}. Weights that can be adapted: {known}"


def _as_sequence(patterns: str | Sequence[str]) -> Sequence[str]:
    return (patterns,) if isinstance(patterns, str) else patterns


def _as_mapping(targets: Targets) -> dict[str, Any]:
    if isinstance(targets, Mapping):
        return dict(targets)
    return dict.fromkeys(_as_sequence(targets))


def _method_for(override: Any, default: Method, pattern: str) -> Method:
    if override is None:
        return default
    if isinstance(override, int) and not isinstance(override, bool):
        if not hasattr(default, "rank"):
            raise ValueError(
                f"target {pattern!r} asks for rank {override}, but {default} has no rank"
            )
        return dataclasses.replace(default, rank=override)  # type: ignore[type-var]
    if hasattr(override, "init") and hasattr(override, "delta"):
        return override
    raise ValueError(f"target {pattern!r} maps to {override!r}: give a rank, a method or None")
