"""Programs read from their text: a loop's body counts as often as it runs."""

import jax
import jax.numpy as jnp
import pytest

from lora_jax.analysis.hlo import Array, parse


def lowered(f, *shapes):
    return parse(jax.jit(f).lower(*shapes).as_text(dialect="hlo"))


def count(program, opcode):
    return sum(found.times for found in program.executed(opcode))


def shape(*sizes, dtype="float32"):
    return jax.ShapeDtypeStruct(sizes, dtype)


def scan(f, x, length):
    return jax.lax.scan(lambda x, _: (f(x), None), x, length=length)[0]


def test_a_scan_within_a_scan_runs_as_often_as_both_together():
    program = lowered(lambda x: scan(lambda x: scan(jnp.tanh, x, 5), jnp.cos(x), 3), shape(4))
    assert (count(program, "tanh"), count(program, "cosine")) == (15, 1)
    assert program.unknown_loops == []


def test_a_compiled_program_counts_as_the_one_it_was_made_from():
    step = jax.jit(lambda w, x: scan(lambda x: jnp.tanh(x @ w), x, 7)).lower(shape(4, 4), shape(4))
    before, after = parse(step.as_text(dialect="hlo")), parse(step.compile().as_text())
    assert count(before, "tanh") == count(after, "tanh") == 7


def test_the_backward_pass_of_rematerialised_layers_runs_them_again():
    def loss(x):
        return scan(jax.checkpoint(lambda x: jnp.tanh(jnp.sin(x))), x, 6).sum()

    # Twice forward; the cosine of the derivative of sin once.
    program = lowered(jax.grad(loss), shape(4))
    assert (count(program, "sine"), count(program, "cosine")) == (12, 6)


def test_each_branch_of_a_conditional_is_counted():
    def f(which, x):
        return jax.lax.switch(which, [jnp.tanh, jnp.cos, jnp.sin], x)

    program = lowered(f, shape(dtype="int32"), shape(4))
    assert [count(program, name) for name in ("tanh", "cosine", "sine")] == [1, 1, 1]


@pytest.mark.parametrize(
    ("tests", "body", "of_tuple"),
    [
        (lambda x: x[0] < 9, lambda x: x * 2, False),
        (lambda x: x[0] < 9, lambda x: (x[0] * 2,), True),
        (lambda x: x[0] < 9, lambda x: (x[0] + 2,), True),
        (lambda x: x[0] > -9, lambda x: (x[0] - 1,), True),
    ],
)
def test_a_loop_that_ends_when_its_data_say_so_is_named_and_counted_once(tests, body, of_tuple):
    start = (shape(dtype="int32"),) if of_tuple else shape(4)
    program = lowered(lambda x: jax.lax.while_loop(tests, body, x), start)
    assert len(program.unknown_loops) == 1
    assert sum(program.runs.values()) == 2  # the program, and once the body


def test_a_loop_from_one_number_to_another_runs_in_between():
    program = lowered(lambda x: jax.lax.fori_loop(3, 10, lambda _, x: jnp.tanh(x), x), shape(4))
    assert count(program, "tanh") == 7


@pytest.mark.parametrize(
    ("array", "nbytes"),
    [
        (Array("f32", (2, 3)), 24),
        (Array("bf16", (2, 3)), 12),
        (Array("pred", (5,)), 5),
        (Array("u4", (5,)), 3),
        (Array("f64", ()), 8),
        (Array("token", ()), 0),
    ],
)
def test_an_array_takes_the_bytes_of_its_type(array, nbytes):
    assert array.nbytes == nbytes


def test_tuples_comments_and_typed_operands_are_read():
    program = parse(
        "ENTRY %main (p: (f32[2], s8[3])) -> f32[2] {\n"
        "  %p = (f32[2]{0}, /*index=1*/s8[3]{0}) parameter(0)\n"
        "  ROOT %x = f32[2]{0} get-tuple-element((f32[2]{0}, s8[3]{0}) %p), index=0\n"
        "}\n"
    )
    (tuple_,) = program.executed("parameter")
    assert tuple_.instruction.arrays == (Array("f32", (2,)), Array("s8", (3,)))
    (part,) = program.executed("get-tuple-element")
    assert part.instruction.is_root
    assert part.instruction.operands[-1] == "p"


def test_what_is_no_program_is_refused():
    with pytest.raises(ValueError, match="no HLO with an entry computation: 'module @jit_f"):
        parse("module @jit_f {}")
