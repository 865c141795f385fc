"""The two files of an adapter: adapter_config.json and adapter_model.safetensors."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from lora_jax.hub.files import find_adapter, read_json
from lora_jax.hub.params import DTYPES
from lora_jax.hub.safetensors import Pending, write_tensors

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
# Our own remarks in the header of the weights.
OURS = "lora_jax"

_KINDS = {ours: stored for stored, ours in DTYPES.items()}

# What PEFT's arrays are called; files of early versions hold the name of the adapter after it.
ARRAYS = (
    "lora_embedding_[AB]|lora_[ABE]|lora_magnitude_vector|ia3_l|vera_lambda_[bd]|hada_w[12]_[ab]|"
    "hada_t[12]|lokr_w[12](?:_[ab])?|lokr_t2|trainable_tokens_delta|miss_block|"
    "hira_(?:embedding_)?[AB]|gralora_[AB](?:_general)?|beft_bias"
)
_ARRAY_KEY = re.compile(rf"(.+?)\.({ARRAYS})(?:\.(?!weight$)[^.]+)?(?:\.weight)?")


class Found(NamedTuple):
    """An adapter as its files hold it.

    Args:
        fields: the content of adapter_config.json.
        tensors: by their keys.
        remarks: what we said in the header when we wrote it; empty in files of others.
        file: that holds the tensors.
    """

    fields: dict[str, Any]
    tensors: dict[str, np.ndarray]
    remarks: dict[str, Any]
    file: Path


class Key(NamedTuple):
    """What a key of the file says.

    Args:
        module: the name of a module.
        array: the bare name of the adapter's array; None where the key is that of a parameter
            which is saved whole.
        parameter: of the module, then.
    """

    module: str
    array: str | None
    parameter: str


def parse_key(key: str) -> Key:
    """Takes a key apart, whether it holds the name of the adapter or not.

    >>> parse_key("base_model.model.h.0.attn.c_attn.lora_A.default.weight")
    Key(module='h.0.attn.c_attn', array='lora_A', parameter='')
    >>> parse_key("base_model.model.classifier.modules_to_save.default.bias")
    Key(module='classifier', array=None, parameter='bias')
    >>> parse_key("base_model.model.norm.ln_tuning_layers.weight")
    Key(module='norm', array=None, parameter='weight')
    """
    name = key.removeprefix(PREFIX)
    if match := _ARRAY_KEY.fullmatch(name):
        return Key(match[1], match[2], "")
    name = re.sub(r"\.modules_to_save\.[^.]+\.|\.base_layer\.", ".", name)
    name = re.sub(r"\.ln_tuning_layers(?:\.[^.]+)?\.([^.]+)$", r".\1", name)
    module, _, parameter = name.rpartition(".")
    return Key(module, None, parameter)


def read_adapter(name_or_path: str | Path) -> Found:
    """Reads both files of an adapter.

    Args:
        name_or_path: the directory that holds them, or a repository of the hub (`find_adapter`).

    Raises:
        FileNotFoundError: the directory or one of the files is not there.
        ValueError: a file is empty, truncated or a pickle.
    """
    directory = find_adapter(name_or_path)
    file = directory / WEIGHTS
    if not file.is_file():
        _raise_without_weights(directory)
    fields = read_json(directory / CONFIG)
    try:
        with safe_open(file, framework="numpy") as opened:
            tensors = {
                key: _whole(opened.get_slice(key), f"{key!r} in {file}")
                for key in opened.keys()  # noqa: SIM118
            }
            metadata = opened.metadata() or {}
    except SafetensorError as error:
        raise ValueError(
            f"{file} is not a whole safetensors file ({file.stat().st_size} bytes): {error}"
        ) from error
    if not tensors:
        raise ValueError(f"{file} holds no tensors")
    return Found(fields, _without_copies(tensors), _remarks(metadata), file)


def _without_copies(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Leaves out what PEFT saves of a trained module a second time where it also saves all biases.

    Under the names of its wrapper these are the base's bias, and once more the trained one.
    """
    wrapped = re.compile(r"\.(?:original_module|modules_to_save(?:\.[^.]+)?)\.((?:.+\.)?bias)$")
    return {
        key: tensor
        for key, tensor in tensors.items()
        if not (wrapped.search(key) and wrapped.sub(r".\1", key) in tensors)
    }


def _whole(stored: Any, where: str) -> np.ndarray:
    """All of a tensor; safetensors refuses to slice one without entries."""
    shape = stored.get_shape()
    if stored.get_dtype() not in DTYPES:
        raise ValueError(f"{where} is {stored.get_dtype()}, not one of {', '.join(DTYPES)}")
    if 0 in shape:
        return np.zeros(shape, DTYPES[stored.get_dtype()])
    return np.asarray(stored[:])


def _remarks(metadata: Mapping[str, str]) -> dict[str, Any]:
    try:
        found = json.loads(metadata.get(OURS, "{}"))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _raise_without_weights(directory: Path) -> None:
    pickles = sorted(directory.glob("adapter_model.bin")) or sorted(directory.glob("*.bin"))
    if pickles:
        raise ValueError(
            f"{directory} holds its adapter as pickle ({pickles[0].name}), which can run any code "
            f"when it is read; only {WEIGHTS} is read: save it anew with PEFT first"
        )
    inner = sorted(file.parent.name for file in directory.glob(f"*/{WEIGHTS}"))
    hint = f"; its sub-folders {', '.join(inner)} hold adapters" if inner else ""
    raise FileNotFoundError(f"{directory} has no {WEIGHTS}{hint}")


def write_adapter(
    directory: Path,
    fields: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
    remarks: Mapping[str, Any],
) -> None:
    """Writes both files; each takes its place when it is whole, the config last.

    Args:
        directory: is made where it is not there; what else lies in it stays.
        fields: the content of adapter_config.json.
        tensors: by their keys.
        remarks: what the header is to say for us.
    """
    directory.mkdir(parents=True, exist_ok=True)
    pending = [
        Pending(key, _KINDS[array.dtype.name], array.shape, lambda array=array: array)  # type: ignore[misc]
        for key, array in sorted(tensors.items())
    ]
    with tempfile.TemporaryDirectory(prefix=".adapter-", dir=directory) as room:
        write_tensors(Path(room) / WEIGHTS, pending, {OURS: json.dumps(remarks, sort_keys=True)})
        text = json.dumps(fields, indent=2, sort_keys=True) + "\n"
        (Path(room) / CONFIG).write_text(text, encoding="utf-8")
        for name in (WEIGHTS, CONFIG):
            (Path(room) / name).replace(directory / name)
