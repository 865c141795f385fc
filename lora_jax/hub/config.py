"""The config of a model, from the fields of its config.json."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from lora_jax.hub.families import FAMILIES, Family

_LARGEST_SIZE = 2**32


def find_family(fields: Mapping[str, Any], where: Any) -> Family:
    """Finds the family that a model is of.

    Args:
        fields: the content of config.json.
        where: where they were found, for errors.

    Returns:
        How the family is read.

    Raises:
        ValueError: it is not known.
    """
    model_type = fields.get("model_type")
    if model_type not in FAMILIES:
        raise ValueError(f"{where} has model_type {model_type!r}; supported: {', '.join(FAMILIES)}")
    return FAMILIES[model_type]


def make_config(fields: Mapping[str, Any], where: Any, **options: Any) -> Any:
    """Makes the config of a model.

    Args:
        fields: the content of config.json.
        where: where they were found, for errors.
        **options: fields of the family's config that the file does not decide, with `dtype` among
            them.

    Returns:
        The config of the family.

    Raises:
        ValueError: the family or an option is not known, or a field is missing or does not fit.
    """
    family = find_family(fields, where)
    try:
        config = family.read_config(fields, dtype=options["dtype"])
        check_options(config, options)
        config = family.read_config(fields, **options)
        _check_sizes(config)
        return config
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    except (TypeError, ZeroDivisionError) as error:
        # A size that is a text, or 0, or given twice: by the file and as an option.
        raise ValueError(
            f"{where} does not go together with the options {', '.join(options)}: {error}"
        ) from error


def check_options(config: Any, options: Mapping[str, Any]) -> None:
    """Checks that a family's config has every field that is to be set.

    Raises:
        ValueError: it lacks one; those that it has are listed.
    """
    known = [field.name for field in dataclasses.fields(config)]
    if unknown := [name for name in options if name not in known]:
        raise ValueError(
            f"the family {config.model_type!r} has no option {', '.join(unknown)}; "
            f"it has {', '.join(known)}"
        )


def _check_sizes(config: Any) -> None:
    for field in dataclasses.fields(config):
        size = getattr(config, field.name)
        whole = field.type is int and not field.name.endswith("_id")
        if whole and not (isinstance(size, int) and 0 <= size < _LARGEST_SIZE):
            raise ValueError(f"makes {field.name} {size!r}, which is no size of a model")
