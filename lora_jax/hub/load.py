"""Loading a pretrained model: its function, its params and its tokenizer."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from lora_jax.hub.families import FAMILIES, Family
from lora_jax.hub.files import find_model, read_json
from lora_jax.hub.params import DTYPES, ShardingOf, read_params
from lora_jax.hub.safetensors import Tensors, open_tensors
from lora_jax.hub.tokenizer import Tokenizer
from lora_jax.models import build


class Pretrained(NamedTuple):
    """A pretrained model.

    Args:
        apply: the model as a function; for an encoder `apply(params, ids, mask, type_ids=None)`
            returns hidden states `[batch, length, dim]`.
        params: nested dicts of arrays.
        config: the config of the family.
        tokenizer: texts to ids; where the directory has no `tokenizer.json`, its use says so.
    """

    apply: Callable[..., Array]
    params: dict[str, Any]
    config: Any
    tokenizer: Tokenizer


def load_model(
    name_or_path: str | Path,
    *,
    dtype: str | None = None,
    sha256: str | Mapping[str, str] | None = None,
    revision: str | None = None,
    sharding: ShardingOf | None = None,
    ignore: Sequence[str] = (),
    scan: bool = True,
    remat: str = "none",
    pooler: bool = False,
) -> Pretrained:
    """Loads a model from a directory of Hugging Face files, the local cache or the hub.

    Args:
        name_or_path: a directory with `config.json`, `tokenizer.json` and safetensors, or the name
            of a repository.
        dtype: type of the params, the activations and the operands of products, such as
            `"bfloat16"`; None keeps the type in the files.
        sha256: what the weight file must hash to; for several files a mapping of names to hashes.
        revision: branch, tag or commit of the repository.
        sharding: gives the sharding of a parameter from its path and shape, as in
            `lambda path, shape: NamedSharding(mesh, PartitionSpec())`.
        ignore: regular expressions of tensors to leave out, besides those known to be unused.
        scan: scan over the layers; False unrolls them, faster for few layers on CPU.
        remat: what the backward pass keeps of a layer: "none" (everything), "dots",
            "dots_no_batch" or "full" (nothing but its input).
        pooler: keep BERT's pooler among the params, for `models.project`.

    Returns:
        The function, its params, its config and its tokenizer.

    Raises:
        FileNotFoundError: the model or one of its files is not there.
        ValueError: the family is not supported, or a file is corrupt or does not fit.
    """
    directory = find_model(name_or_path, revision=revision)
    fields = read_json(directory / "config.json")
    family = _family(fields, directory)
    with open_tensors(directory, sha256) as tensors:
        options: dict[str, Any] = {"scan": scan, "remat": remat}
        if pooler:
            options["pooler"] = True
        options["dtype"] = dtype or _stored_dtype(tensors)
        config = _config(family, fields, options, directory)
        tokenizer = _tokenizer(directory, config)
        model = build(config)
        params = read_params(
            tensors,
            family.names(config),
            model.shapes,
            dtype=dtype,
            sharding=sharding,
            ignore=ignore,
        )
    return Pretrained(model.apply, params, config, tokenizer)


def _family(fields: Mapping[str, Any], directory: Path) -> Family:
    model_type = fields.get("model_type")
    if model_type not in FAMILIES:
        raise ValueError(
            f"{directory / 'config.json'} has model_type {model_type!r}; "
            f"supported: {', '.join(FAMILIES)}"
        )
    return FAMILIES[model_type]


def _config(
    family: Family, fields: Mapping[str, Any], options: Mapping[str, Any], directory: Path
) -> Any:
    try:
        return family.read_config(fields, **options)
    except ValueError as error:
        raise ValueError(f"{directory / 'config.json'}: {error}") from error


def _stored_dtype(tensors: Tensors) -> str:
    """The widest floating type in the files: nothing that they hold is then rounded."""
    found = {tensors.dtype(name) for name in tensors.names} & set(DTYPES)
    return jnp.result_type(*(DTYPES[dtype] for dtype in found or {"F32"})).name


def _tokenizer(directory: Path, config: Any) -> Tokenizer:
    tokenizer = Tokenizer(directory, pad_id=config.pad_id)
    if tokenizer.exists and tokenizer.vocab_size > config.vocab_size:
        raise ValueError(
            f"{directory / 'tokenizer.json'} has {tokenizer.vocab_size} tokens, but "
            f"{directory / 'config.json'} makes the vocabulary {config.vocab_size}"
        )
    return tokenizer
