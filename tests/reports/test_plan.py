"""The plan counts what it says it counts."""

import jax
import jax.numpy as jnp
import pytest

from lora_jax.data import Record, Task, encode
from lora_jax.hub import Tokenizer
from lora_jax.reports.plan import describe_task, matmul_flops

ROWS, DIM, LAYERS = 5, 8, 7


def scanned(weights, x):
    return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0].sum()


def count(function):
    weights, x = jnp.ones((LAYERS, DIM, DIM)), jnp.ones((ROWS, DIM))
    return matmul_flops(jax.make_jaxpr(function)(weights, x).jaxpr)


def test_a_scanned_product_counts_as_often_as_it_runs():
    product = 2 * ROWS * DIM * DIM
    assert count(scanned) == LAYERS * product
    assert count(jax.jit(scanned)) == LAYERS * product
    assert count(jax.grad(scanned)) == 3 * LAYERS * product
    # With respect to x no gradient of a weight is made.
    assert count(jax.grad(scanned, argnums=1)) == 2 * LAYERS * product


def test_batched_products_count_each_member():
    def batched(_, x):
        return jnp.einsum("bij,bkj->bik", x[None] * jnp.ones((3, 1, 1)), jnp.ones((3, 4, DIM)))

    assert count(batched) == 3 * 2 * ROWS * 4 * DIM


def test_the_example_shows_what_is_masked(minilm_dir):
    tokenizer = Tokenizer(minilm_dir, pad_id=0)
    records = (Record("open the file", 1),)
    task = Task("toy", "Made here.", ("mail", "files"), records, records, "accuracy")
    said = describe_task(task, encode(records, tokenizer, 7), tokenizer)
    assert "[CLS] open the file [SEP] ([PAD]) ([PAD])" in said
    assert "its label: files" in said


@pytest.mark.parametrize("label", [2.5])
def test_a_score_is_shown_as_it_is(label, minilm_dir):
    tokenizer = Tokenizer(minilm_dir, pad_id=0)
    records = (Record("one", label, "two"),)
    task = Task("toy", "Made here.", (), records, records, "spearman")
    assert "its label: 2.5" in describe_task(task, encode(records, tokenizer, 8), tokenizer)
