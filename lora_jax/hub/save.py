"""Saving a model as a directory that transformers loads: the inverse of loading."""

import contextlib
import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lora_jax.hub.chat import TEMPLATE_FOLDER
from lora_jax.hub.families import FAMILIES
from lora_jax.hub.files import read_json
from lora_jax.hub.llama2c_tokenizer import Llama2cTokenizer
from lora_jax.hub.load import Pretrained
from lora_jax.hub.names import Names, Stored
from lora_jax.hub.params import DTYPES
from lora_jax.hub.safetensors import INDEX, SINGLE, Pending, Tensors, open_tensors, write_tensors
from lora_jax.hub.write import full_name, write_config
from lora_jax.lifting import path_name
from lora_jax.models import build

# What lies beside the weights and describes the model, its tokenizer and its images.
_COPIED = (".json", ".jinja", ".model", ".txt")


def save_model(
    directory: str | Path,
    model: Pretrained | Any,
    params: Mapping[str, Any] | None = None,
    *,
    dtype: str | None = None,
    max_shard_bytes: int = 5 * 10**9,
    overwrite: bool = False,
) -> Path:
    """Saves a model, such as one that an adapter was merged into, in the form it was loaded from.

    The files have the names and types of the tensors that the model was loaded from, and beside
    them what else the model came with: tensors that our model has no place for, `config.json`, the
    tokenizer. Memory holds one further tensor at a time. The directory appears when it is whole.

    Args:
        directory: where to; it is made.
        model: the result of `load_model`, whose directory must still be there; or for params that
            were read from no files the config of a BERT, a GPT-2 or a decoder.
        params: what to save in place of the params that were loaded, of the same shapes.
        dtype: type to convert to, such as `"float32"`; None takes that of each tensor in the files
            that the model was loaded from, or else of the params.
        max_shard_bytes: size above which the weights are spread over several files.
        overwrite: replace a directory that is there already.

    Returns:
        The directory.

    Raises:
        FileExistsError: the directory is there and `overwrite` is False.
        FileNotFoundError: the files that the model was loaded from are gone.
        ValueError: the params are not those of the model, or the type is unknown.
    """
    directory = Path(directory).expanduser()
    kinds = {ours: stored for stored, ours in DTYPES.items()}
    if dtype is not None and dtype not in kinds:
        raise ValueError(f"unknown dtype {dtype!r}; known: {', '.join(kinds)}")
    if max_shard_bytes < 1:
        raise ValueError(f"max_shard_bytes is {max_shard_bytes}, not at least 1")
    if directory.exists() and not overwrite and (directory.is_file() or any(directory.iterdir())):
        raise FileExistsError(f"{directory} is there already; overwrite=True replaces it")
    with contextlib.ExitStack() as stack:
        if isinstance(model, Pretrained) and not isinstance(model.tokenizer, Llama2cTokenizer):
            fields = read_json(model.directory / "config.json")
            source = stack.enter_context(open_tensors(model.directory))
            wanted = _plan(model.params if params is None else params, model, source)
        else:
            fields, wanted = _plan_afresh(model, params)
        fresh = stack.enter_context(_replaced(directory))
        if dtype is not None:
            wanted = [
                one._replace(dtype=kinds[dtype]) if one.dtype in DTYPES else one for one in wanted
            ]
            fields = _with_dtype(fields, dtype)
        _write(wanted, fresh, max_shard_bytes)
        if isinstance(model, Pretrained):
            _copy_rest(model, fresh)
        (fresh / "config.json").write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")
    return directory


@contextlib.contextmanager
def _replaced(directory: Path) -> Iterator[Path]:
    """A fresh directory that takes the place of `directory` when all has gone well."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{directory.name}-", dir=directory.parent) as room:
        fresh = Path(room) / "new"
        fresh.mkdir()
        yield fresh
        if directory.exists():
            directory.rename(Path(room) / "old")
        fresh.rename(directory)


def _copy_rest(model: Pretrained, directory: Path) -> None:
    if isinstance(model.tokenizer, Llama2cTokenizer):
        if model.tokenizer.exists:
            model.tokenizer.save(directory)
        return
    for file in sorted(model.directory.iterdir()):
        if file.suffix in _COPIED and file.name != INDEX and file.is_file():
            shutil.copyfile(file, directory / file.name)
    if (templates := model.directory / TEMPLATE_FOLDER).is_dir():
        shutil.copytree(templates, directory / TEMPLATE_FOLDER)


def _plan_afresh(
    model: Pretrained | Any, params: Mapping[str, Any] | None
) -> tuple[dict[str, Any], list[Pending]]:
    """The fields of config.json and all tensors of a model that is in no files of this form."""
    config = model.config if isinstance(model, Pretrained) else model
    if params is None and isinstance(model, Pretrained):
        params = model.params
    if params is None:
        raise ValueError(f"give the params of the {type(config).__name__} that is to be saved")
    fields = write_config(config)
    leaves = _leaves(params, config)
    made = _from_params(leaves, FAMILIES[config.model_type].names(config))
    return fields, [one._replace(name=full_name(config, one.name)) for one in made.values()]


def _plan(params: Mapping[str, Any], model: Pretrained, source: Tensors) -> list[Pending]:
    """All tensors in the order of the source, none of them made yet."""
    names = FAMILIES[model.config.model_type].names(model.config)
    leaves = _leaves(params, model.config)
    made = _from_params(leaves, names)
    spelt = {names.canonical(name): name for name in source.names}
    for name in made:
        if name not in spelt:
            raise ValueError(f"{source} has no tensor {name!r}, which the params hold")
    planned = []
    for canonical, name in spelt.items():
        found = made.get(canonical) or _copied(name, canonical, source, spelt, made)
        if found.shape != source.shape(name):
            raise ValueError(
                f"{name!r} of the params has shape {found.shape}, but {source.shape(name)} in "
                f"{source}"
            )
        planned.append(found._replace(name=name, dtype=source.dtype(name)))
    return planned


def _leaves(params: Mapping[str, Any], config: Any) -> dict[str, Any]:
    """The params by path; those that the config asks for, and no others."""
    found, wanted = (
        {path_name(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}
        for tree in (params, build(config).shapes)
    )
    if odd := sorted(found.keys() ^ wanted.keys()):
        lacks = "lack" if odd[0] in wanted else "have, but the model has not,"
        raise ValueError(
            f"the params {lacks} {odd[0]}; give all params of the model as plain arrays, adapters "
            "merged and nothing quantised"
        )
    return found


def _from_params(leaves: Mapping[str, Any], names: Names) -> dict[str, Pending]:
    """The tensors that the params make, by canonical name."""
    parts: dict[str, list[tuple[Stored, Any, tuple[int, ...]]]] = {}
    for row in names.stored:
        if row.path not in leaves:
            continue
        leaf = leaves[row.path]
        places = np.ndindex(*leaf.shape[: row.stacked_axes])
        for name, place in zip(row.names(leaf.shape), places, strict=True):
            parts.setdefault(name, []).append((row, leaf, place))
    return {name: _joined(name, rows) for name, rows in parts.items()}


def _joined(name: str, rows: list[tuple[Stored, Any, tuple[int, ...]]]) -> Pending:
    rows = sorted(rows, key=lambda part: part[0].part)
    first, leaf, _ = rows[0]
    if [row.part for row, *_ in rows] != [(i, first.part[1]) for i in range(first.part[1])]:
        raise ValueError(f"the params lack a part of {name!r}")

    def make() -> np.ndarray:
        arrays = [_slice(leaf, place) for _, leaf, place in rows]
        return first.to_file(arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis=-1))

    dtype = next(stored for stored, ours in DTYPES.items() if ours == leaf.dtype.name)
    return Pending(name, dtype, first.stored_shape(leaf.shape), make)


def _slice(leaf: Any, place: tuple[int, ...]) -> np.ndarray:
    """One layer, or one expert of it: nothing else leaves the device."""
    if not place:
        return np.asarray(leaf)
    rest = leaf.shape[len(place) :]
    start = (*place, *[0] * len(rest))
    size = (*[1] * len(place), *rest)
    return np.asarray(jax.lax.dynamic_slice(leaf, start, size)).reshape(rest)


def _copied(
    name: str, canonical: str, source: Tensors, spelt: Mapping[str, str], made: Mapping[str, Any]
) -> Pending:
    """A tensor that our model does not hold: as it was, or as the one that it is a copy of."""
    shape = source.shape(name)
    for other, twin in made.items():
        # A tied head, say: it must follow its embedding.
        same = len(shape) > 1 and twin.shape == shape and _last(other) == _last(canonical)
        if same and np.array_equal(source.read(name), source.read(spelt[other])):
            return twin
    whole = (slice(None),) * len(shape)
    return Pending(name, "", shape, lambda: source.read(name, whole))


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _write(tensors: list[Pending], directory: Path, limit: int) -> None:
    shards: list[list[Pending]] = [[]]
    for tensor in tensors:
        if shards[-1] and sum(one.nbytes for one in shards[-1]) + tensor.nbytes > limit:
            shards.append([])
        shards[-1].append(tensor)
    if len(shards) == 1:
        write_tensors(directory / SINGLE, tensors)
        return
    weight_map: dict[str, str] = {}
    for i, shard in enumerate(shards, start=1):
        file = f"model-{i:05}-of-{len(shards):05}.safetensors"
        write_tensors(directory / file, shard)
        weight_map |= {one.name: file for one in shard}
    total = sum(one.nbytes for one in tensors)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (directory / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _with_dtype(fields: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """The same fields with the type changed, also in the configs of parts."""
    changed: dict[str, Any] = {}
    for name, value in fields.items():
        if re.fullmatch("(torch_)?dtype", name) and isinstance(value, str):
            changed[name] = dtype
        else:
            changed[name] = _with_dtype(value, dtype) if isinstance(value, dict) else value
    return changed
