"""Which axes of each weight may be split over a mesh of devices, by its path.

Megatron's split (Shoeybi et al., arXiv 1909.08053, section 3) over the axis `tensor`: what goes
into a block is split by its outputs, what comes out of it by its inputs, so that one sum over the
devices ends each block. The other side of each weight is split over `fsdp` (Rajbhandari et al.,
ZeRO-3, arXiv 1910.02054). What is small, such as biases of the hidden state and the scales of
norms, is everywhere.

Projections bear the same names in every family and layers are stacked on a leading axis, so one
table serves all families.
"""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

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
    >>> next(tuple(spec) for regex, spec in rules if re.fullmatch(regex, path))
    (None, 'fsdp', 'tensor')
    """
    leaves = jax.tree.leaves_with_path({"params": build(config).shapes})
    shapes = {"/".join(str(part.key) for part in path): leaf.shape for path, leaf in leaves}
    rules = [_DISTANCES, *((_TOWER + regex, spec) for regex, spec in _RULES)]
    for ending, axis in _VOCABULARY:
        regex = _TOWER + ending
        sizes = [shape[axis] for path, shape in shapes.items() if re.fullmatch(regex, path)]
        rules.append((regex, _split_vocabulary(axis, sizes)))
    return tuple(rule for rule in rules if any(re.fullmatch(rule[0], path) for path in shapes))


def weight_sharding(
    mesh: Mesh, rules: Sequence[Rule]
) -> Callable[[str, tuple[int, ...]], NamedSharding]:
    """Gives the sharding of a weight from its path and shape, as `hub.load_model` asks for it.

    Args:
        mesh: has the axes that the rules name.
        rules: `(regex, PartitionSpec)` pairs.

    Returns:
        A function of a path such as `layers/q_proj/kernel` and a shape. It raises a `ValueError`
        where the mesh does not divide an axis, which says what would.
    """

    def sharding(path: str, shape: tuple[int, ...]) -> NamedSharding:
        spec = first_match(rules, f"params/{path}")
        check_fits(mesh, f"params/{path}", shape, spec)
        return NamedSharding(mesh, spec)

    return sharding


def first_match(rules: Sequence[Rule], path: str) -> PartitionSpec:
    """The spec of the first rule that matches a whole path; the empty one if none does."""
    return next((spec for regex, spec in rules if re.fullmatch(regex, path)), PartitionSpec())


def check_fits(mesh: Mesh, path: str, shape: tuple[int, ...], spec: PartitionSpec) -> None:
    """Checks that a mesh divides the axes of an array.

    Raises:
        ValueError: it does not, or the spec has more axes than the array.
    """
    if len(spec) > len(shape):
        raise ValueError(f"{path} has shape {shape}: too few axes for {spec}")
    for axis, entry in enumerate(spec):
        names = () if entry is None else (entry,) if isinstance(entry, str) else entry
        parts = math.prod(mesh.shape[name] for name in names)
        if shape[axis] % parts:
            raise ValueError(
                f"{path} has shape {shape}: axis {axis} does not divide by mesh "
                f"{' x '.join(names)} = {parts}; of {mesh.size} devices these would fit: "
                f"{divisors(shape[axis], mesh.size)}"
            )


def divisors(size: int, limit: int) -> str:
    """Names the numbers up to a limit that divide a size, for an error message.

    >>> divisors(12, 8)
    '1, 2, 3, 4, 6'
    """
    return ", ".join(str(n) for n in range(1, limit + 1) if size % n == 0)


def _split_vocabulary(axis: int, sizes: list[int]) -> PartitionSpec:
    even = all(size % _EVEN_VOCABULARY == 0 for size in sizes)
    vocabulary, width = ("tensor", "fsdp") if even else (None, ("fsdp", "tensor"))
    return PartitionSpec(vocabulary, width) if axis == 0 else PartitionSpec(width, vocabulary)
