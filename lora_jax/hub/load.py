"""Loading a pretrained model: its function, its params and its tokenizer."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array

from lora_jax.hub import llama2c, llama2c_tokenizer
from lora_jax.hub.config import find_family, make_config
from lora_jax.hub.files import find_model, read_json
from lora_jax.hub.images import ImageProcessor
from lora_jax.hub.params import DTYPES, ShardingOf, read_params
from lora_jax.hub.patches import PatchProcessor
from lora_jax.hub.preprocessing import read_image_processor
from lora_jax.hub.processor import Processor
from lora_jax.hub.quantized import as_quantization
from lora_jax.hub.safetensors import Tensors, open_tensors
from lora_jax.hub.tokenizer import Tokenizer
from lora_jax.models import build
from lora_jax.models.partition import partition_rules, weight_sharding
from lora_jax.quantization import accept_quantized


class Pretrained(NamedTuple):
    """A pretrained model.

    Args:
        apply: the model as a function; for an encoder `apply(params, ids, mask, type_ids=None)`
            returns hidden states `[batch, length, dim]`.
        params: nested dicts of arrays.
        config: the config of the family.
        tokenizer: texts to ids; where the directory has no `tokenizer.json`, its use says so.
        directory: where the files lie.
    """

    apply: Callable[..., Array]
    params: dict[str, Any]
    config: Any
    tokenizer: Tokenizer
    directory: Path

    @property
    def images(self) -> ImageProcessor | PatchProcessor:
        """Pictures to pixels; `preprocessor_config.json` is read at each use."""
        return read_image_processor(self.directory)

    @property
    def processor(self) -> Processor:
        """Texts with pictures in them to inputs, for a model that reads both."""
        return Processor(self.tokenizer, self.images, self.config)


def load_model(
    name_or_path: str | Path,
    *,
    dtype: str | None = None,
    sha256: str | Mapping[str, str] | None = None,
    revision: str | None = None,
    sharding: ShardingOf | None = None,
    mesh: Mesh | None = None,
    ignore: Sequence[str] = (),
    quantize: str | Mapping[str, Any] | None = None,
    **options: Any,
) -> Pretrained:
    """Loads a model from a directory of Hugging Face files, the local cache or the hub.

    Args:
        name_or_path: a directory with `config.json`, `tokenizer.json` and safetensors, the name of
            a repository, or a `.bin` file of llama2.c.
        dtype: type of the params, the activations and the operands of products, such as
            `"bfloat16"`; None keeps the type in the files.
        sha256: what the weight file must hash to; for several files a mapping of names to hashes.
        revision: branch, tag or commit of the repository.
        sharding: gives the sharding of a parameter from its path and shape, as in
            `lambda path, shape: NamedSharding(mesh, PartitionSpec())`. Then each process reads
            only the slices that it holds.
        mesh: splits the params as the rules of the family say (`models.partition_rules`), over
            axes called "fsdp" and "tensor"; instead of `sharding`.
        ignore: regular expressions of tensors to leave out, besides those known to be unused.
        quantize: `"nf4"` or `"int8"`, or the arguments of `lora.quantize` as a mapping, such as
            `{"kind": "nf4", "keep": ("o_proj",)}`: linear weights are quantised as they are read,
            a layer at a time, and the function takes them so.
        **options: fields of the family's config that the files do not decide. All have `scan`
            (False unrolls the layers, faster for few layers on CPU) and `remat` (what the backward
            pass keeps of a layer: "none" keeps everything, "dots", "dots_no_batch", "full" keeps
            nothing but its input); an encoder has `pooler` and `head`, for example.

    Returns:
        The function, its params, its config, its tokenizer and its directory.

    Raises:
        FileNotFoundError: the model or one of its files is not there.
        ValueError: the family or an option is not known, or a file is corrupt or does not fit.
    """
    quantization = as_quantization(quantize)
    if mesh is not None and sharding is not None:
        raise ValueError("give load_model a mesh, or the sharding of each parameter, not both")
    with _open(name_or_path, revision, sha256) as files:
        family = find_family(files.fields, files.config_file)
        options["dtype"] = dtype or _stored_dtype(files.tensors)
        config = make_config(files.fields, files.config_file, **options)
        tokenizer = _tokenizer(files, config)
        model = build(config)
        if mesh is not None:
            sharding = weight_sharding(mesh, partition_rules(config))
        params = read_params(
            files.tensors,
            family.names(config),
            model.shapes,
            dtype=dtype,
            sharding=sharding,
            ignore=ignore,
            quantization=quantization,
        )
    apply = model.apply if quantization is None else accept_quantized(model.apply)
    return Pretrained(apply, params, config, tokenizer, files.config_file.parent)


class _Files(NamedTuple):
    """The open files of a model: its weights, the fields of its config.json, its tokenizer."""

    tensors: Tensors
    fields: Mapping[str, Any]
    config_file: Path
    tokenizer: Callable[..., Tokenizer]


@contextlib.contextmanager
def _open(
    name_or_path: str | Path, revision: str | None, sha256: str | Mapping[str, str] | None
) -> Iterator[_Files]:
    path = Path(name_or_path).expanduser()
    if path.is_file():
        tensors = llama2c.open_file(path, sha256)
        tokenizer = llama2c_tokenizer.find_tokenizer(path, tensors.header.vocab_size)
        yield _Files(tensors, llama2c.config_fields(tensors.header), path, tokenizer)
        return
    directory = find_model(name_or_path, revision=revision)
    fields = _read_fields(directory)
    with open_tensors(directory, sha256) as opened:

        def make_tokenizer(**ids: Any) -> Tokenizer:
            return Tokenizer(directory, **ids)

        yield _Files(opened, fields, directory / "config.json", make_tokenizer)


def _read_fields(directory: Path) -> dict[str, Any]:
    """The fields of config.json, with what generation_config.json knows better: where texts end."""
    fields = read_json(directory / "config.json")
    generation = directory / "generation_config.json"
    ends = read_json(generation).get("eos_token_id") if generation.is_file() else None
    return fields if ends is None else fields | {"eos_token_id": ends}


def _stored_dtype(tensors: Tensors) -> str:
    """The widest floating type in the files: nothing that they hold is then rounded."""
    found = {tensors.dtype(name) for name in tensors.names} & set(DTYPES)
    return jnp.result_type(*(DTYPES[dtype] for dtype in found or {"F32"})).name


def _tokenizer(files: _Files, config: Any) -> Tokenizer:
    rows = getattr(config, "vocab_size", None)
    ends = getattr(config, "eos_ids", ())
    pad_id = getattr(config, "pad_id", None)
    # Some files say -1 where they mean that there is none.
    known = pad_id is not None and 0 <= pad_id < (rows or pad_id + 1)
    tokenizer = files.tokenizer(
        pad_id=pad_id if known else None,
        bos_id=getattr(config, "bos_id", None),
        eos_id=ends[0] if ends else None,
        vocab_size=rows,
    )
    # Tokens added later may lie beyond the table: they are refused where they are used.
    if rows is not None and tokenizer.exists and tokenizer.learnt_size > rows:
        raise ValueError(
            f"{tokenizer.file} has {tokenizer.learnt_size} tokens, but {files.config_file} makes "
            f"the vocabulary {rows}"
        )
    return tokenizer
