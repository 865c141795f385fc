"""Published models, by their config.json: how many parameters they have, and their tensors' names.

Each file of tests/fixtures/published holds the fields of a config.json as published, the class of
transformers that it belongs to, how many parameters the model is said to have (exactly, or rounded
as in "1.5B") and by whom, and the hash of the names and shapes of its tensors.
"""

import collections
import hashlib
import json
import math
import re
from pathlib import Path
from typing import Any

import jax

from lora_jax import models
from lora_jax.hub.families import FAMILIES
from lora_jax.hub.names import Names

FOLDER = Path(__file__).parent.parent / "fixtures" / "published"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))

Tensors = dict[str, tuple[int, ...]]


def read(name: str) -> dict[str, Any]:
    """The facts of a published model."""
    return json.loads((FOLDER / f"{name}.json").read_text())


def build(facts: dict[str, Any]) -> tuple[Names, dict[str, Any]]:
    """Our table of tensors of a model, and the shapes of its params by path."""
    family = FAMILIES[facts["config"]["model_type"]]
    config = family.read_config(facts["config"], **facts.get("options", {}))
    leaves = jax.tree.leaves_with_path(models.build(config).shapes)
    shapes = {jax.tree_util.keystr(p, simple=True, separator="/"): x.shape for p, x in leaves}
    return family.names(config), shapes


def ours(facts: dict[str, Any]) -> Tensors:
    """The tensors that our table says the checkpoint has; each param is in them exactly once."""
    names, shapes = build(facts)
    rows = [row for row in names.stored if row.path in shapes]
    assert sorted(row.path for row in rows) == sorted(shapes), "a param without a row, or with two"
    found: Tensors = {}
    parts = collections.defaultdict(list)
    for row in rows:
        for tensor in row.names(shapes[row.path]):
            shape = row.stored_shape(shapes[row.path])
            assert found.setdefault(tensor, shape) == shape, tensor
            parts[tensor].append(row.part)
    for tensor, found_parts in parts.items():
        count = found_parts[0][1]
        assert sorted(found_parts) == [(i, count) for i in range(count)], tensor
    held = sum(math.prod(shape) for shape in found.values())
    assert held == sum(math.prod(shape) for shape in shapes.values())
    return found


def theirs(facts: dict[str, Any]) -> Tensors:
    """The tensors that transformers would save, under our canonical names; needs torch."""
    import torch
    import transformers
    from transformers.core_model_loading import revert_weight_conversion

    config = transformers.AutoConfig.for_model(**facts["config"])
    with torch.device("meta"):
        model = getattr(transformers, facts["architecture"])(config)
    # Of tensors that are one and the same the first alone is saved.
    once = {id(x): (name, x) for name, x in reversed(model.state_dict(keep_vars=True).items())}
    saved = revert_weight_conversion(model, dict(reversed(once.values())))
    names, shapes = build(facts)
    known = {
        tensor
        for row in names.stored
        if row.path in shapes
        for tensor in row.names(shapes[row.path])
    }
    found = {}
    for name, tensor in saved.items():
        canonical = names.canonical(name)
        assert canonical not in found, name
        if canonical in known or not any(re.fullmatch(p, canonical) for p in names.unused):
            found[canonical] = tuple(tensor.shape)
    return found


def digest(tensors: Tensors) -> str:
    """A hash of names and shapes."""
    lines = [f"{name} {'x'.join(map(str, shape))}" for name, shape in sorted(tensors.items())]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def record(name: str) -> None:
    """Writes the hash of the original's tensors into the file of a model."""
    facts = read(name)
    facts["tensors"] = digest(theirs(facts))
    (FOLDER / f"{name}.json").write_text(json.dumps(facts, indent=1) + "\n")
