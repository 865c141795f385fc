"""Which axes of each weight may be split over a mesh of devices, by its path.

Megatron's split (Shoeybi et al., arXiv 1909.08053, section 3) over the axis `tensor`: what goes
into a block is split by its outputs, what comes out of it by its inputs, so that one sum over the
devices ends each block. The other side of each weight is split over `fsdp` (Rajbhandari et al.,
ZeRO-3, arXiv 1910.02054). What is small, such as biases of the hidden state and the scales of
norms, is everywhere.

Projections bear the same names in every family and layers are stacked on a leading axis, so one
table serves all families.
"""

import re
from typing import Any

import jax
from jax.sharding import PartitionSpec

from lora_jax.models.registry import build

Rule = tuple[str, PartitionSpec]

_INTO = "q_proj|k_proj|v_proj|fc1|gate_proj|up_proj|pos_key_proj|pos_query_proj"
_OUT_OF = "o_proj|fc2|down_proj"

# The first that matches wins. Paths end in what each rule ends in; before it, there may be the name
# of a tower.
_RULES: tuple[Rule, ...] = (
    # Layers [layers, in, out], the experts in them [layers, experts, in, out].
    (rf"layers/experts/({_INTO})/kernel", PartitionSpec(None, None, "fsdp", "tensor")),
    (rf"layers/experts/({_OUT_OF})/kernel", PartitionSpec(None, None, "tensor", "fsdp")),
    (rf"layers/(cross/)?({_INTO})/kernel", PartitionSpec(None, "fsdp", "tensor")),
    (rf"layers/(cross/)?({_INTO})/bias", PartitionSpec(None, "tensor")),
    (rf"layers/(cross/)?({_OUT_OF})/kernel", PartitionSpec(None, "tensor", "fsdp")),
    # Blocks outside of the stack [in, out]: poolers, and projectors from one tower to another.
    (rf"(pooler|projector)/({_INTO})/kernel", PartitionSpec("fsdp", "tensor")),
    (rf"(pooler|projector)/({_INTO})/bias", PartitionSpec("tensor")),
    (rf"(pooler|projector)/({_OUT_OF})/kernel", PartitionSpec("tensor", "fsdp")),
    (r"(pooler|projection|embed_proj|head/dense)/kernel", PartitionSpec("fsdp", "tensor")),
    (r"head/out_proj/kernel", PartitionSpec("fsdp", None)),  # to a handful of classes
    # What enters the hidden state as it is, which is whole on every device of `tensor`.
    (r"(patches/kernel|positions/embedding)", PartitionSpec(None, "fsdp")),
    (r"conv/kernel", PartitionSpec(None, "fsdp", "tensor")),
)

# Of the table [vocabulary, width] and of the head [width, vocabulary].
_VOCABULARY: tuple[tuple[str, int], ...] = ((r"embed/embedding", 0), (r"lm_head/kernel", 1))

# Many vocabularies have an odd size. One that this divides is split, the others are whole.
_EVEN_VOCABULARY = 8

_TOWER = r"params/(?:\w+/)?"
# DeBERTa's table of distances; T5's, within its two stacks, has only a number for each head.
_DISTANCES: Rule = (r"params/relative/embedding", PartitionSpec(None, "fsdp"))


def partition_rules(config: Any) -> tuple[Rule, ...]:
    """Gives the weights of a model their layout on a mesh with the axes `fsdp` and `tensor`.

    Embeddings and output heads are split by their vocabulary over `tensor` where its size divides
    by 8, and otherwise by their width over both axes: GPT-2's 50,257 tokens divide by nothing.

    Args:
        config: the config of a family.

    Returns:
        `(regex, PartitionSpec)` pairs over whole paths such as `params/layers/q_proj/kernel`; the
        first that matches wins, and what none matches is whole on every device. Each matches some
        weight of the model: rules for what it lacks are left out.

    >>> from lora_jax.models.bert import BertConfig
    >>> rules = partition_rules(BertConfig(dim=8, heads=2, layers=3))
    >>> path = "params/layers/q_proj/kernel"
    >>> next(spec for regex, spec in rules if re.fullmatch(regex, path))
    PartitionSpec(None, 'fsdp', 'tensor')
    """
    leaves = jax.tree.leaves_with_path({"params": build(config).shapes})
    shapes = {"/".join(str(part.key) for part in path): leaf.shape for path, leaf in leaves}
    rules = [_DISTANCES, *((_TOWER + regex, spec) for regex, spec in _RULES)]
    for ending, axis in _VOCABULARY:
        regex = _TOWER + ending
        sizes = [shape[axis] for path, shape in shapes.items() if re.fullmatch(regex, path)]
        rules.append((regex, _split_vocabulary(axis, sizes)))
    return tuple(rule for rule in rules if any(re.fullmatch(rule[0], path) for path in shapes))


def _split_vocabulary(axis: int, sizes: list[int]) -> PartitionSpec:
    even = all(size % _EVEN_VOCABULARY == 0 for size in sizes)
    vocabulary, width = ("tensor", "fsdp") if even else (None, ("fsdp", "tensor"))
    return PartitionSpec(vocabulary, width) if axis == 0 else PartitionSpec(width, vocabulary)
