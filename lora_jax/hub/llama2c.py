"""Files of weights of llama2.c, versions 0, 1 and 2, read as those of a Hugging Face Llama."""

import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lora_jax.hub.hashes import check_file
from lora_jax.hub.names import Index
from lora_jax.hub.safetensors import Tensors

_MAGIC = 0x616B3432  # "ak42"
_HEADER_BYTES = 256  # of versions 1 and 2
_LARGEST = 2**31  # parameters of one tensor, beyond which a header is noise


class Header(NamedTuple):
    """What a file says of itself.

    Args:
        dim: width of the hidden state.
        ff_dim: width inside the feed-forward block.
        layers: number of layers.
        heads: number of attention heads.
        kv_heads: number of heads of keys and values.
        vocab_size: number of tokens.
        max_length: the longest text in tokens.
        tied: whether the output head is the embedding.
        version: 0 (the original layout), 1 (a header of 256 bytes) or 2 (int8 in groups).
        group: number of weights that share a scale, in version 2.
    """

    dim: int
    ff_dim: int
    layers: int
    heads: int
    kv_heads: int
    vocab_size: int
    max_length: int
    tied: bool
    version: int
    group: int = 0

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.dim // self.heads


def read_header(path: Path) -> Header:
    """Reads and checks the header of a file.

    Raises:
        ValueError: the file is no llama2.c model.
    """
    with path.open("rb") as file:
        start = file.read(_HEADER_BYTES)
    if len(start) < 28:
        raise ValueError(f"{path} is not a llama2.c model: it has {len(start)} bytes")
    magic, version = struct.unpack_from("<Ii", start)
    if magic != _MAGIC:
        sizes = struct.unpack_from("<7i", start)
        # A negative vocabulary says that the head is no copy of the embedding.
        header = _header(sizes, tied=sizes[5] > 0, version=0)
    elif version not in {1, 2} or len(start) < _HEADER_BYTES:
        raise ValueError(f"{path} is a llama2.c file of version {version}, not 0, 1 or 2, or cut")
    else:
        sizes = struct.unpack_from("<7i", start, 8)
        tied, group = struct.unpack_from("<Bi", start, 36)
        header = _header(sizes, tied=bool(tied), version=version, group=group)
    _check_header(header, path)
    return header


def _header(sizes: tuple[int, ...], *, tied: bool, version: int, group: int = 0) -> Header:
    dim, ff_dim, layers, heads, kv_heads, vocab_size, max_length = sizes
    return Header(
        dim,
        ff_dim,
        layers,
        heads,
        kv_heads,
        abs(vocab_size),
        max_length,
        tied,
        version,
        group if version == 2 else 0,
    )


def _check_header(header: Header, path: Path) -> None:
    sizes = header[:7]
    sound = (
        min(sizes) > 0
        and header.dim * max(header.ff_dim, header.vocab_size) < _LARGEST
        and header.dim % (2 * header.heads) == 0
        and header.heads % header.kv_heads == 0
        and (header.version < 2 or (header.group > 0 and header.dim % header.group == 0))
    )
    if not sound:
        names = ", ".join(f"{k} {v}" for k, v in zip(Header._fields, header, strict=True))
        raise ValueError(f"{path} is not a llama2.c model: its header gives {names}")


class _Piece(NamedTuple):
    """Where one tensor lies: the offset of its first byte, and its shape."""

    offset: int
    shape: tuple[int, ...]
    quantized: bool


class Llama2cTensors(Tensors):
    """The tensors of a file, under the names and in the layout of a Hugging Face Llama.

    Args:
        path: the file.
        header: its header.
        pieces: where each tensor lies.
    """

    def __init__(self, path: Path, header: Header, pieces: Mapping[str, _Piece]) -> None:
        super().__init__({})
        self.header = header
        self._path = path
        self._pieces = pieces
        self._bytes = np.memmap(path, np.uint8, mode="r")

    @property
    def names(self) -> list[str]:
        """The names of all tensors."""
        return list(self._pieces)

    def file(self, name: str) -> Path:  # noqa: ARG002
        """The file that holds a tensor."""
        return self._path

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor."""
        return self._pieces[name].shape

    def dtype(self, name: str) -> str:  # noqa: ARG002
        """All tensors are given in float32."""
        return "F32"

    def read(self, name: str, index: Index = (slice(None),)) -> np.ndarray:
        """Reads a tensor, or the slice of it at `index`."""
        piece = self._pieces[name]
        if piece.quantized:
            size, group = int(np.prod(piece.shape)), self.header.group
            whole = self._view(piece.offset, np.int8, size).reshape(-1, group)
            scales = self._view(piece.offset + size, np.float32, size // group)
            array = (whole * scales[:, None]).reshape(piece.shape)
        else:
            count = int(np.prod(piece.shape))
            array = self._view(piece.offset, np.float32, count).reshape(piece.shape)
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            array = _halves(array, self.header.head_dim)
        return np.array(array[index])

    def _view(self, offset: int, dtype: type, count: int) -> np.ndarray:
        size = count * np.dtype(dtype).itemsize
        return np.frombuffer(self._bytes[offset : offset + size].tobytes(), dtype)

    def __str__(self) -> str:
        return str(self._path)


def _halves(rows: np.ndarray, head_dim: int) -> np.ndarray:
    """Reorders the rows of each head for a rotation of halves instead of adjacent pairs.

    llama2.c rotates rows 2i and 2i + 1 together, Hugging Face rows i and i + head_dim / 2.
    """
    return rows.reshape(-1, head_dim // 2, 2, rows.shape[-1]).swapaxes(1, 2).reshape(rows.shape)


def open_file(path: Path, sha256: str | Mapping[str, str] | None = None) -> Llama2cTensors:
    """Opens a file of weights.

    Args:
        path: the file.
        sha256: what it must hash to, or a mapping from its name; None checks nothing.

    Returns:
        Its tensors; they are read from the file when asked for.

    Raises:
        ValueError: it is another kind of file, truncated, too long, or has another hash.
    """
    if path.suffix != ".bin":
        raise ValueError(
            f"{path} is a file; give the directory that holds config.json, or a .bin of llama2.c"
        )
    if sha256 is not None:
        check_file(path, sha256 if isinstance(sha256, str) else sha256[path.name])
    header = read_header(path)
    pieces, end = _lay_out(header)
    if (size := path.stat().st_size) != end:
        kind = "truncated" if size < end else "no llama2.c model, or too long"
        raise ValueError(f"{path} is {kind}: it has {size} bytes, but its header needs {end}")
    return Llama2cTensors(path, header, pieces)


def _lay_out(header: Header) -> tuple[dict[str, _Piece], int]:
    """Where every tensor lies, and where the file ends."""
    offset = 28 if header.version == 0 else _HEADER_BYTES
    pieces = {}
    for name, shape in _tensors(header):
        quantized = header.version == 2 and len(shape) == 2
        count = int(np.prod(shape, dtype=np.int64))
        if name:
            pieces[name] = _Piece(offset, shape, quantized)
        offset += count + 4 * count // header.group if quantized else 4 * count
    return pieces, offset


def _tensors(header: Header) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The names and shapes in the order of the file; tables of the rotation have no name."""
    dim, kv_dim = header.dim, header.kv_heads * header.head_dim
    square, narrow = (dim, dim), (kv_dim, dim)
    wide, back = (header.ff_dim, dim), (dim, header.ff_dim)
    table = (header.vocab_size, dim)

    def each(name: str, shape: tuple[int, ...]) -> Iterator[tuple[str, tuple[int, ...]]]:
        for layer in range(header.layers):
            yield f"model.layers.{layer}.{name}.weight", shape

    attention = [
        *each("self_attn.q_proj", square),
        *each("self_attn.k_proj", narrow),
        *each("self_attn.v_proj", narrow),
        *each("self_attn.o_proj", square),
    ]
    mlp = [
        *each("mlp.gate_proj", wide),
        *each("mlp.down_proj", back),
        *each("mlp.up_proj", wide),
    ]
    first = list(each("input_layernorm", (dim,)))
    second = list(each("post_attention_layernorm", (dim,)))
    embed, norm = ("model.embed_tokens.weight", table), ("model.norm.weight", (dim,))
    if header.version == 0:
        yield from (embed, *first, *attention, *second, *mlp, norm)
        yield from [("", (header.max_length, header.head_dim // 2))] * 2
    else:
        yield from (*first, *second, norm, embed, *attention, *mlp)
    if not header.tied:
        yield "lm_head.weight", table


def config_fields(header: Header) -> dict[str, Any]:
    """The fields that a config.json of the same Llama would have."""
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": header.dim,
        "intermediate_size": header.ff_dim,
        "num_hidden_layers": header.layers,
        "num_attention_heads": header.heads,
        "num_key_value_heads": header.kv_heads,
        "head_dim": header.head_dim,
        "vocab_size": header.vocab_size,
        "max_position_embeddings": header.max_length,
        "tie_word_embeddings": header.tied,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": None,
    }
