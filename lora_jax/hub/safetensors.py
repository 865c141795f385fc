"""Reading and writing safetensors files, one tensor at a time or a slice of one."""

import contextlib
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open

from lora_jax.hub.files import read_json
from lora_jax.hub.hashes import check_file
from lora_jax.hub.names import Index

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_FLOATS = {"BF16": jnp.bfloat16, "F16": np.float16, "F32": np.float32}
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


class Tensors:
    """The tensors of a model, spread over one or more safetensors files that stay on disk.

    Args:
        files: for each tensor name, the open file that holds it and the path of that file.
    """

    def __init__(self, files: Mapping[str, tuple[Any, Path]]) -> None:
        self._files = files

    @property
    def names(self) -> list[str]:
        """The names of all tensors."""
        return list(self._files)

    def file(self, name: str) -> Path:
        """The file that holds a tensor."""
        return self._files[name][1]

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, read from the header alone."""
        return tuple(self._slice(name).get_shape())

    def dtype(self, name: str) -> str:
        """The type of a tensor as safetensors spells it, such as `"BF16"`."""
        return self._slice(name).get_dtype()

    def read(self, name: str, index: Index = (slice(None),)) -> np.ndarray:
        """Reads a tensor, or the slice of it at `index`, in its stored type."""
        return self._slice(name)[index]

    def _slice(self, name: str) -> Any:
        file, _ = self._files[name]
        return file.get_slice(name)

    def __str__(self) -> str:
        paths = sorted({path for _, path in self._files.values()})
        more = f" and {len(paths) - 1} more files" if len(paths) > 1 else ""
        return f"{paths[0]}{more}"


@contextlib.contextmanager
def open_tensors(
    directory: Path, sha256: str | Mapping[str, str] | None = None
) -> Iterator[Tensors]:
    """Opens the weights in a directory, in one file or sharded over several.

    Args:
        directory: holds `model.safetensors`, or `model.safetensors.index.json` and its shards.
        sha256: what the file must hash to, or a mapping of file names to hashes; None checks
            nothing.

    Yields:
        The tensors; they can be read until the context ends.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is corrupt or truncated, has another hash, or only pickle files are here.
    """
    paths, index = _weight_files(directory)
    _check_hashes(paths, sha256)
    with contextlib.ExitStack() as stack:
        files = [(stack.enter_context(_open(path)), path) for path in paths]
        names = [(name, file, path) for file, path in files for name in _names(file)]
        found = {name: (file, path) for name, file, path in names}
        for name, shard in index.items():
            if name not in found or found[name][1].name != shard:
                raise ValueError(
                    f"{directory / INDEX} says that {name!r} is in {shard}, which does not hold it"
                )
        yield Tensors(found)


def _weight_files(directory: Path) -> tuple[list[Path], dict[str, str]]:
    """The files of weights, and which of them should hold which tensor where there are several."""
    if (directory / SINGLE).is_file():
        return [directory / SINGLE], {}
    if (directory / INDEX).is_file():
        return _shards(directory / INDEX)
    pickles = sorted(p.name for pattern in _PICKLES for p in directory.glob(pattern))
    if pickles:
        raise ValueError(
            f"{directory} holds its weights as pickle ({pickles[0]}), which can run any code when "
            f"it is read; only safetensors is read: convert it to {SINGLE} first"
        )
    raise FileNotFoundError(
        f"{directory} has neither {SINGLE} nor {INDEX}; a model that is published as pickle alone "
        "must be saved anew with transformers first"
    )


def _shards(index: Path) -> tuple[list[Path], dict[str, str]]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{index} has no weight_map of tensor names to files")
    if odd := [name for name in weight_map.values() if Path(str(name)).name != name]:
        raise ValueError(f"{index} lists {odd[0]!r}, which is not the name of a file beside it")
    shards = [index.parent / name for name in sorted(set(weight_map.values()))]
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing:
        raise FileNotFoundError(f"{index} lists {', '.join(missing)}, but {index.parent} lacks it")
    return shards, weight_map


def _check_hashes(paths: list[Path], sha256: str | Mapping[str, str] | None) -> None:
    if sha256 is None:
        return
    if isinstance(sha256, str):
        if len(paths) > 1:
            names = ", ".join(path.name for path in paths)
            raise ValueError(f"one sha256 for {len(paths)} files; give a mapping for {names}")
        sha256 = {paths[0].name: sha256}
    unlisted = [path.name for path in paths if path.name not in sha256]
    if unlisted:
        raise ValueError(f"no sha256 given for {', '.join(unlisted)} in {paths[0].parent}")
    for path in paths:
        check_file(path, sha256[path.name])


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="numpy")
    except SafetensorError as error:
        raise ValueError(
            f"{path} is not a whole safetensors file ({path.stat().st_size} bytes): {error}"
        ) from error


def _names(file: Any) -> list[str]:
    return list(file.keys())


class Pending(NamedTuple):
    """A tensor that is to be written.

    Args:
        name: its name in the file.
        dtype: its type as safetensors spells it.
        shape: its shape.
        make: makes the array, in any type; called when its turn comes.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    make: Callable[[], np.ndarray]

    @property
    def nbytes(self) -> int:
        """Its size in the file."""
        bits = re.search(r"\d+", self.dtype)
        return math.prod(self.shape) * (int(bits[0]) // 8 if bits else 1)  # BOOL has a byte


def write_tensors(
    path: Path, tensors: Sequence[Pending], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes a safetensors file, holding one tensor at a time.

    The library's own writer wants all tensors of a file at once.

    Args:
        path: the file.
        tensors: in the order of the file.
        metadata: what else the file says of itself.
    """
    # Says to transformers how the axes of these weights are ordered.
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    end = 0
    for one in tensors:
        offsets = [end, end := end + one.nbytes]
        header[one.name] = {"dtype": one.dtype, "shape": one.shape, "data_offsets": offsets}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for one in tensors:
            array = one.make()
            if one.dtype in _FLOATS:
                array = array.astype(_FLOATS[one.dtype], copy=False)
            file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
            del array  # before the next one is made
