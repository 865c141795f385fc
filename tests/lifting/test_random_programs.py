"""Random programs: whatever views, products and control flow a weight goes through, ΔW goes too.

Hypothesis draws weights, chains of views of them, products with activations in any order of axes,
and the control flow around each product. The oracle is the same program on W + ΔW.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st
from jax import lax

import lora_jax as lora
from tests.lifting import checks
from tests.lifting.cases.case import Case

RANK = 2

# Each example is compiled, so few are drawn, the same ones every time. To search among more, set
# LORA_JAX_EXAMPLES to their number.
SEARCH = os.environ.get("LORA_JAX_EXAMPLES")
random_programs = hypothesis.settings(
    max_examples=int(SEARCH or 10),
    derandomize=not SEARCH,
    phases=[hypothesis.Phase.generate],  # shrinking would compile for many minutes
    deadline=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)

# ---------------------------------------------------------------------------------------------
# Views


class View(NamedTuple):
    """One view of an array, and what it does to its axes.

    `axes` names for each axis of the result the axes of the original weight it came from.
    """

    name: str
    apply: Callable[[Any], Any]
    shape: tuple[int, ...]
    axes: tuple[frozenset[int], ...]

    def __repr__(self) -> str:
        return f"{self.name} -> {self.shape}"


@st.composite
def a_transpose(draw, shape, axes):
    order = draw(st.permutations(range(len(shape))))
    return View(
        f"transpose{tuple(order)}",
        lambda w: w.transpose(order),
        tuple(shape[i] for i in order),
        tuple(axes[i] for i in order),
    )


@st.composite
def a_split_of_one_axis(draw, shape, axes):
    i = draw(st.sampled_from([i for i, n in enumerate(shape) if n in (4, 6)] or [0]))
    parts = (2, shape[i] // 2) if shape[i] % 2 == 0 else (1, shape[i])
    new = (*shape[:i], *parts, *shape[i + 1 :])
    grown = (*axes[:i], axes[i], axes[i], *axes[i + 1 :])
    return View(f"reshape{new}", lambda w: w.reshape(new), new, grown)


@st.composite
def a_merge_of_two_axes(draw, shape, axes):
    i = draw(st.integers(0, len(shape) - 2))
    new = (*shape[:i], shape[i] * shape[i + 1], *shape[i + 2 :])
    merged = (*axes[:i], axes[i] | axes[i + 1], *axes[i + 2 :])
    return View(f"reshape{new}", lambda w: w.reshape(new), new, merged)


@st.composite
def a_slice(draw, shape, axes):
    i = draw(st.integers(0, len(shape) - 1))
    start = draw(st.integers(0, (shape[i] - 1) // 2))
    stride = draw(st.sampled_from([1, 2]))
    part = (*(slice(None),) * i, slice(start, None, stride))
    size = len(range(start, shape[i], stride))
    new = (*shape[:i], size, *shape[i + 1 :])
    return View(f"[{start}::{stride}] of axis {i}", lambda w: w[part], new, axes)


@st.composite
def a_single_entry_of_an_axis(draw, shape, axes):
    i = draw(st.integers(0, len(shape) - 1))
    entry = draw(st.integers(0, shape[i] - 1))
    dynamic = draw(st.booleans())

    def pick(w):
        if dynamic:
            return lax.dynamic_index_in_dim(w, jnp.int32(entry), axis=i, keepdims=False)
        return lax.index_in_dim(w, entry, axis=i, keepdims=False)

    name = f"{'dynamic ' if dynamic else ''}entry {entry} of axis {i}"
    return View(name, pick, (*shape[:i], *shape[i + 1 :]), (*axes[:i], *axes[i + 1 :]))


@st.composite
def a_scale(draw, shape, axes):
    by = draw(st.sampled_from([-1.5, 0.5, 3.0]))
    scale = draw(
        st.sampled_from([lambda w: by * w, lambda w: w * by, lambda w: w / by, lambda w: -w])
    )
    return View(f"scaled by {by}", scale, shape, axes)


@st.composite
def a_reversal(draw, shape, axes):
    i = draw(st.integers(0, len(shape) - 1))
    return View(f"rev axis {i}", lambda w: jnp.flip(w, axis=i), shape, axes)


@st.composite
def a_new_axis(draw, shape, axes):
    """`expand_dims`, or a broadcast to more than one copy."""
    i = draw(st.integers(0, len(shape)))
    size = draw(st.sampled_from([1, 1, 3]))
    new = (*shape[:i], size, *shape[i:])
    grown = (*axes[:i], frozenset(), *axes[i:])
    grow = lambda w: jnp.broadcast_to(jnp.expand_dims(w, i), new)
    return View(f"broadcast{new}", grow, new, grown)


@st.composite
def a_piece_of_a_split(draw, shape, axes):
    i = draw(st.integers(0, len(shape) - 1))
    cut = draw(st.integers(1, max(1, shape[i] - 1)))
    pieces = [cut, shape[i] - cut] if cut < shape[i] else [shape[i]]
    which = draw(st.integers(0, len(pieces) - 1))
    new = (*shape[:i], pieces[which], *shape[i + 1 :])
    take = lambda w: jnp.split(w, np.cumsum(pieces)[:-1], axis=i)[which]
    return View(f"piece {which} of split{pieces} of axis {i}", take, new, axes)


@st.composite
def a_concatenation_with_itself(draw, shape, axes):
    i = draw(st.integers(0, len(shape) - 1))
    new = (*shape[:i], 2 * shape[i], *shape[i + 1 :])
    twice = lambda w: jnp.concatenate([w, jnp.flip(w, i)], axis=i)
    return View(f"concatenated along axis {i}", twice, new, axes)


@st.composite
def a_concatenation_with_zeros(draw, shape, axes):
    i = draw(st.integers(0, len(shape) - 1))
    new = (*shape[:i], shape[i] + 1, *shape[i + 1 :])
    border = (*shape[:i], 1, *shape[i + 1 :])
    extend = lambda w: jnp.concatenate([jnp.zeros(border, w.dtype), w], axis=i)
    return View(f"concatenated with zeros along axis {i}", extend, new, axes)


VIEWS = (
    a_transpose,
    a_split_of_one_axis,
    a_merge_of_two_axes,
    a_slice,
    a_single_entry_of_an_axis,
    a_scale,
    a_reversal,
    a_new_axis,
    a_piece_of_a_split,
    a_concatenation_with_itself,
    a_concatenation_with_zeros,
)


def still_a_matrix(view: View) -> bool:
    """Whether two axes remain that hold different axes of the weight, in a reasonable size."""
    pairs = separate(view.shape, view.axes)
    return len(view.shape) <= 5 and np.prod(view.shape) <= 600 and bool(pairs)


def separate(shape, axes, without=frozenset()):
    """Pairs of positions that hold different axes of the weight, none of them in `without`.

    A single entry of an axis is an index, not a side of a matrix, so size one does not count.
    """
    sides = [
        (i, held)
        for i, (size, held) in enumerate(zip(shape, axes, strict=True))
        if size > 1 and held and not held & without
    ]
    return [(i, j) for i, first in sides for j, second in sides if not first & second]


@st.composite
def a_chain_of_views(draw, shape, longest=5):
    chain = []
    axes = tuple(frozenset({i}) for i in range(len(shape)))
    for _ in range(draw(st.integers(0, longest))):
        view = draw(draw(st.sampled_from(VIEWS))(shape, axes))
        if still_a_matrix(view):
            chain.append(view)
            shape, axes = view.shape, view.axes
    return tuple(chain), shape, axes


# ---------------------------------------------------------------------------------------------
# Products


@dataclasses.dataclass(frozen=True)
class Product:
    """``einsum`` of an activation with a chain of views of one weight."""

    weight: str
    weight_shape: tuple[int, ...]
    views: tuple[View, ...]
    equation: str
    activation_shape: tuple[int, ...]
    weight_first: bool
    around: str
    cast: str | None = None

    def __call__(self, w: jax.Array, x: jax.Array) -> jax.Array:
        for view in self.views:
            w = view.apply(w)
        w = w if self.cast is None else w.astype(self.cast)
        x = fit(x, self.activation_shape)
        return jnp.einsum(self.equation, *((w, x) if self.weight_first else (x, w)))


def fit(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """An activation of any shape made of the entries of another one."""
    return jnp.tanh(jnp.resize(x, shape))


@st.composite
def a_product(draw, name, casts=(None,)):
    """A weight, its views, and an einsum that sums over some of their axes and keeps others."""
    shape = tuple(draw(st.lists(st.sampled_from([2, 3, 4, 6]), min_size=2, max_size=4)))
    views, seen, axes = draw(a_chain_of_views(shape))
    letters = "abcdefgh"[: len(seen)]
    first, second = draw(st.sampled_from(separate(seen, axes)))
    # Scanned, the first axis is neither summed nor kept, so two others must be there to be.
    inner = separate(seen, axes, without={0})
    around = draw(st.sampled_from(sorted(AROUND if inner else AROUND.keys() - {SLICING})))
    if around == SLICING:
        first, second = draw(st.sampled_from(inner))
    roles = [draw(st.sampled_from(["sum", "keep", "share"])) for _ in seen]
    roles[first], roles[second] = "sum", "keep"
    # An axis of the weight has one role: in two at once it belongs to no factor alone.
    for i, held in enumerate(axes):
        for j in (first, second):
            if held & axes[j]:
                roles[i] = roles[j]
    own = draw(st.lists(st.sampled_from([2, 3]), max_size=2))
    own_letters = "xyz"[: len(own)]
    sizes = dict(zip(letters, seen, strict=True)) | dict(zip(own_letters, own, strict=True))
    by_role = {
        role: [c for c, r in zip(letters, roles, strict=True) if r == role] for role in roles
    }
    shared = by_role.get("share", [])
    activation = draw(st.permutations([*own_letters, *by_role["sum"], *shared]))
    result = draw(st.permutations([*own_letters, *by_role["keep"], *shared]))
    weight_first = draw(st.booleans())
    operands = ["".join(activation), letters]
    left, right = reversed(operands) if weight_first else operands
    return Product(
        weight=name,
        weight_shape=shape,
        views=views,
        equation=f"{left},{right}->{''.join(result)}",
        activation_shape=tuple(sizes[c] for c in activation),
        weight_first=weight_first,
        around=around,
        cast=draw(st.sampled_from(casts)),
    )


# ---------------------------------------------------------------------------------------------
# Control flow around a product: fn(weight, activation) -> activation, run in another way


def plainly(fn, w, x):
    return fn(w, x)


def in_jit(fn, w, x):
    return jax.jit(fn)(w, x)


def in_checkpoint(fn, w, x):
    return jax.checkpoint(fn)(w, x)


def in_cond(fn, w, x):
    return lax.cond(x.sum() > 0, fn, lambda w, x: 2.0 * fn(w, x), w, x)


def in_scan_over_data(fn, w, x):
    """The weight is a constant of the loop."""
    rows = jnp.stack([x, 0.5 * x])
    return lax.scan(lambda c, row: (c, fn(w, row)), 0.0, rows)[1].sum(0)


def in_scan_with_the_weight_carried(fn, w, x):
    def step(carry, _):
        w, x = carry
        return (w, fit(fn(w, x), x.shape).astype(x.dtype)), None

    return lax.scan(step, (w, x), length=2)[0][1]


def in_scan_over_its_first_axis(fn, w, x):
    """The weight is sliced by the loop, as stacked layers are, and put together again."""
    put_back = lambda row: jnp.broadcast_to(row[None], w.shape)
    return lax.scan(lambda c, row: (c, fn(put_back(row), x)), 0.0, w)[1].sum(0)


def in_vmap(fn, w, x):
    return jax.vmap(fn, in_axes=(None, 0))(w, jnp.stack([x, 0.3 * x + 0.1])).sum(0)


AROUND = {
    fn.__name__: fn
    for fn in (
        plainly,
        in_jit,
        in_checkpoint,
        in_cond,
        in_scan_over_data,
        in_scan_with_the_weight_carried,
        in_scan_over_its_first_axis,
        in_vmap,
    )
}
SLICING = in_scan_over_its_first_axis.__name__

# ---------------------------------------------------------------------------------------------
# Programs


@dataclasses.dataclass(frozen=True)
class Program:
    """Products one after another, each on the result of the one before."""

    products: tuple[Product, ...]

    def __call__(self, params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        for product in self.products:
            x = AROUND[product.around](product, params[product.weight], x)
        return x


@st.composite
def a_program(draw, most_weights=3):
    count = draw(st.integers(1, most_weights))
    return Program(tuple(draw(a_product(f"w{i}")) for i in range(count)))


def as_case(program: Program, dtype: Any) -> Case:
    keys = jax.random.split(jax.random.key(3), len(program.products))
    params = {
        product.weight: (0.5 * jax.random.normal(key, product.weight_shape)).astype(dtype)
        for key, product in zip(keys, program.products, strict=True)
    }
    x = jax.random.normal(jax.random.key(4), (7,)).astype(dtype)
    return Case(program, params, (x,), targets=tuple(params))


@contextlib.contextmanager
def reports_ignored():
    """A reshape that merges an input and an output axis falls back, and says so."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*dense W.*")
        yield


def lift_and_train(case: Case, dtype: Any) -> tuple[Any, Any]:
    lifted = checks.lift(case, method=lora.LoRA(rank=RANK, alpha=3.0))
    factors = checks.trained_factors(lifted, case.params)
    return lifted, jax.tree.map(lambda leaf: leaf.astype(dtype), factors)


def lift_and_compare(program: Program, dtype: Any) -> tuple[checks.Outcome, checks.Outcome]:
    case = as_case(program, dtype)
    with reports_ignored():
        lifted, factors = lift_and_train(case, dtype)
        return checks.lifted_and_dense(lifted, case, factors)


@random_programs
@hypothesis.given(a_program())
def test_a_random_program_equals_the_dense_oracle_to_twelve_digits(program):
    with jax.enable_x64(True):
        actual, expected = lift_and_compare(program, jnp.float64)
        assert checks.relative_error(actual.outputs, expected.outputs) < 1e-12
        assert checks.relative_error_of_whole(actual.derivatives, expected.derivatives) < 1e-12


@random_programs
@hypothesis.given(a_program(most_weights=1))
def test_a_random_product_in_single_precision_equals_the_dense_oracle(program):
    actual, expected = lift_and_compare(program, jnp.float32)
    assert checks.relative_error(actual.outputs, expected.outputs) < 1e-5
    assert checks.relative_error_of_whole(actual.derivatives, expected.derivatives) < 1e-5


@random_programs
@hypothesis.given(a_product("w", casts=(None, "bfloat16", "float32")))
def test_a_random_product_in_half_precision_rounds_no_worse_than_on_dense_weights(product):
    """The truth is the same product of the same half-precision numbers in double precision."""
    case = as_case(Program((product,)), jnp.bfloat16)
    with reports_ignored():
        lifted, factors = lift_and_train(case, jnp.bfloat16)
        actual = checks.jit(lifted)(case.params, factors, *case.args)
        dense = checks.jit(case.apply)(lifted.merge(case.params, factors), *case.args)
    assert actual.dtype == dense.dtype
    with jax.enable_x64(True):
        wide = checks.in_double_precision((case.params, factors, case.args))
        params, factors, args = wide
        exactly = Program((dataclasses.replace(product, cast=None),))
        truth = np.asarray(checks.jit(exactly)(lifted.merge(params, factors), *args))
    rounding = 2.0**-8 * np.linalg.norm(truth)  # half a unit in the last place of bf16
    assert distance(actual, truth) <= 2 * distance(dense, truth) + 2 * rounding


def distance(actual: jax.Array, truth: np.ndarray) -> float:
    return float(np.linalg.norm(np.asarray(actual, np.float64) - truth))
