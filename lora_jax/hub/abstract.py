"""A model described by its shape alone: all of it but the weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lora_jax.hub import llama2c
from lora_jax.hub.config import check_options, make_config
from lora_jax.hub.files import read_json
from lora_jax.hub.load import Pretrained
from lora_jax.hub.quantized import as_quantization
from lora_jax.hub.tokenizer import Tokenizer
from lora_jax.models import build, gpt3_config
from lora_jax.models.gpt2 import GPT3_SIZES
from lora_jax.nearest import name_nearest
from lora_jax.quantization import accept_quantized
from lora_jax.quantization import quantize as quantize_params

_PREFIX = "gpt3-"
# Models of which no files were published, by name.
PUBLISHED_SHAPES = tuple(_PREFIX + size for size in GPT3_SIZES)


def abstract_model(
    model: str | Path | Mapping[str, Any],
    *,
    dtype: str = "float32",
    quantize: str | Mapping[str, Any] | None = None,
    **options: Any,
) -> Pretrained:
    """Describes a model without its weights: nothing is read but config.json, nothing allocated.

    Args:
        model: a directory with `config.json`, the content of one, one of `PUBLISHED_SHAPES`, or a
            file of llama2.c.
        dtype: type of the params, the activations and the operands of products.
        quantize: "nf4" or "int8", or the arguments of `lora.quantize` as a mapping.
        **options: further fields of the family's config, as for `load_model`.

    Returns:
        What `load_model` returns, with shapes (`jax.ShapeDtypeStruct`) for params. Without a
        directory there is no tokenizer, which its use says.

    Raises:
        FileNotFoundError: the directory has no config.json.
        ValueError: no such directory or shape, or an option does not fit.

    >>> import jax, math
    >>> shapes = jax.tree.leaves(abstract_model("gpt3-175B").params)
    >>> sum(math.prod(leaf.shape) for leaf in shapes)
    174604259328
    """
    quantization = as_quantization(quantize)
    config, directory = _find(model, dtype=dtype, **options)
    apply, params = build(config)
    if quantization is None:
        return Pretrained(apply, params, config, Tokenizer(directory), directory)
    kind, keep, block = quantization
    params = quantize_params(params, kind, keep=keep, block=block)
    return Pretrained(accept_quantized(apply), params, config, Tokenizer(directory), directory)


def _find(model: str | Path | Mapping[str, Any], **options: Any) -> tuple[Any, Path]:
    nowhere = Path("no directory")
    if isinstance(model, Mapping):
        return make_config(model, "the model's config", **options), nowhere
    if model in PUBLISHED_SHAPES:
        size = str(model).removeprefix(_PREFIX)
        check_options(gpt3_config(size), options)
        return gpt3_config(size, **options), nowhere
    directory = Path(model).expanduser()
    if directory.is_file():
        header = llama2c.open_file(directory, None).header
        return make_config(llama2c.config_fields(header), directory, **options), nowhere
    if not directory.is_dir():
        raise ValueError(
            f"no directory {str(model)!r}, and no published shape of that name; nearest: "
            f"{name_nearest(str(model), PUBLISHED_SHAPES, 2)}; a dict with the fields of a "
            "config.json describes a model too"
        )
    file = directory / "config.json"
    return make_config(read_json(file), file, **options), directory
