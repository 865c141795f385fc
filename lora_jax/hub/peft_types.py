"""What the fields of adapter_config.json may hold, which strangers write."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Set
from typing import Any, NamedTuple

_LARGEST_RANK = 2**20  # files of LoKr name a rank beyond all sizes for factors that are not split
_LARGEST = 1e30  # of other numbers; its square is no number in fp32


class Kind(NamedTuple):
    """A kind of value.

    Args:
        wanted: what it is, for errors.
        holds: whether a value is one.
    """

    wanted: str
    holds: Callable[[Any], bool]


def check_types(fields: Mapping[str, Any], where: Any) -> None:
    """Checks that every field that is read or says what is adapted holds what PEFT writes there.

    Args:
        fields: of adapter_config.json; those that are null have PEFT's default.
        where: the file, for errors.

    Raises:
        ValueError: one does not; the message names it and what it holds.
    """
    kinds = _KINDS | _KINDS_OF.get(str(fields.get("peft_type")), {})
    for name, kind in kinds.items():
        value = fields.get(name)
        if value is not None and not kind.holds(value):
            raise ValueError(f"{where} has {name} = {_shown(value)}; it must be {kind.wanted}")


def check_remarks(remarks: Mapping[str, Any], where: Any) -> None:
    """Checks our own remarks in the header of a file, which may have been changed.

    Raises:
        ValueError: they are not as we write them.
    """
    sites = remarks.get("sites")
    base = remarks.get("base")
    valid = (base is None or isinstance(base, str)) and (
        sites is None or (isinstance(sites, dict) and all(map(_is_site, sites.values())))
    )
    if not valid:
        raise ValueError(f"{where} has remarks of lora_jax in its header that lora_jax never wrote")


# ---------------------------------------------------------------------------------------------
# Kinds


def _is_whole(low: int, high: int, *, zero: bool = True) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and low <= value <= high and (zero or value != 0)


def _is_number(low: float, high: float) -> Callable[[Any], bool]:
    return lambda value: type(value) in (int, float) and low <= value <= high


def _is_list(of: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(of, value))


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_pattern(name: str) -> bool:
    """Whether the name of a pattern is a regular expression, as which PEFT takes it."""
    try:
        re.compile(rf"(.*\.)?({name})$")
    except (re.error, RecursionError, OverflowError):
        return False
    return True


def _are_patterns(of: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: (
        isinstance(value, dict) and all(map(_is_pattern, value)) and all(map(of, value.values()))
    )


def _is_site(value: Any) -> bool:
    if not isinstance(value, dict) or not {"ranks", "scales"} <= set(value):
        return False
    ranks, scales = value["ranks"], value["scales"]
    return (
        _is_list(_is_whole(0, _LARGEST_RANK))(ranks)
        and _is_list(_is_number(-_LARGEST, _LARGEST))(scales)
        and len(ranks) == len(scales) > 0
        and any(ranks)
    )


def _either(*of: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: any(one(value) for one in of)


_FLAG = Kind("true or false", lambda value: type(value) is bool)
_TEXT = Kind("a text", _is_text)
_START = Kind("true, false or a text", _either(_FLAG.holds, _is_text))
_RANK = Kind(f"a whole number from 1 to {_LARGEST_RANK}", _is_whole(1, _LARGEST_RANK))
_MORE_RANK = Kind(f"a whole number from 0 to {_LARGEST_RANK}", _is_whole(0, _LARGEST_RANK))
_ALPHA = Kind(f"a number above 0, up to {_LARGEST:g}", _is_number(math.ulp(0.0), _LARGEST))
_RATE = Kind("a number from 0, below 1", _is_number(0, math.nextafter(1, 0)))
_NAMES = Kind("a list of texts", _is_list(_is_text))
_ENDS = Kind("a text or a list of texts", _either(_is_text, _is_list(_is_text)))
_LAYER = _is_whole(0, _LARGEST_RANK)
_TOKENS = _is_list(_is_whole(0, 2**31 - 1))
_KEPT = _is_list(_FLAG.holds)

_KINDS: dict[str, Kind] = {
    "peft_type": _TEXT,
    "task_type": _TEXT,
    # What is adapted: the tensors tell, but a file that says something odd of it is broken.
    "target_modules": _ENDS,
    "exclude_modules": _ENDS,
    "modules_to_save": _ENDS,
    "target_parameters": _NAMES,
    "layers_to_transform": Kind(
        "the number of a layer, or a list of such", _either(_LAYER, _is_list(_LAYER))
    ),
    "trainable_token_indices": Kind(
        "a list of tokens, or such a list for each name of an embedding",
        _either(
            _TOKENS, lambda value: isinstance(value, dict) and all(map(_TOKENS, value.values()))
        ),
    ),
    # Ranks and scales.
    "r": _RANK,
    "init_r": _RANK,
    "hybrid_r": _MORE_RANK,
    "lora_alpha": _ALPHA,
    "alpha": _ALPHA,
    "rank_pattern": Kind(
        f"{_RANK.wanted} for each regular expression of names", _are_patterns(_RANK.holds)
    ),
    "alpha_pattern": Kind(
        f"{_ALPHA.wanted}, for each regular expression of names", _are_patterns(_ALPHA.holds)
    ),
    "use_rslora": _FLAG,
    # What else the methods are made of.
    "lora_dropout": _RATE,
    "hira_dropout": _RATE,
    "vera_dropout": _RATE,
    "miss_dropout": _RATE,
    "gralora_dropout": _RATE,
    "init_lora_weights": _START,
    "init_weights": _START,
    "save_projection": _FLAG,
    "mini_r": _RANK,
    "gralora_k": _RANK,
    "decompose_both": _FLAG,
    "decompose_factor": Kind(
        "a whole number above 0, or -1", _is_whole(-1, _LARGEST_RANK, zero=False)
    ),
    "d_initial": Kind("a number", _is_number(-_LARGEST, _LARGEST)),
    "projection_prng_key": Kind("a whole number from 0 to 2**63 - 1", _is_whole(0, 2**63 - 1)),
}
_KINDS_OF: dict[str, dict[str, Kind]] = {
    "ADALORA": {
        "rank_pattern": Kind(
            "a list of true and false for each module",
            lambda value: isinstance(value, dict) and all(map(_KEPT, value.values())),
        )
    }
}
FIELDS: Set[str] = _KINDS.keys()


def _shown(value: Any) -> str:
    try:
        shown = repr(value)
    except RecursionError:
        shown = "something nested deeply"
    return shown if len(shown) <= 80 else f"{shown[:80]}…"
