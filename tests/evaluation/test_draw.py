"""Rows with settings of their own: each gets what `Sampling` chooses for it alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lora_jax.evaluation import Sampling
from lora_jax.evaluation.draw import Drawing, draw

ROWS, VOCAB = 40, 50
GREEDY = {"temperature": 0.0, "top_k": 0, "top_p": 1.0}
WARM = {"temperature": 1.5, "top_k": 0, "top_p": 1.0}
KINDS = {
    "all greedy": [GREEDY],
    "greedy beside warm": [GREEDY, WARM],
    "greedy with filters": [{**GREEDY, "top_k": 3, "top_p": 0.2}],
    "top_k": [{**WARM, "top_k": 3}, {**WARM, "top_k": VOCAB + 1}],
    "top_p": [{**WARM, "top_p": 0.5}, {**WARM, "top_p": 1e-6}],
    "all at once": [GREEDY, WARM, {**WARM, "top_k": 10, "top_p": 0.7}, {**WARM, "top_p": 0.9}],
}


def make(kinds):
    """As many rows as there are seeds, each with the next of the settings."""
    settings = [kinds[i % len(kinds)] for i in range(ROWS)]
    as_array = lambda name, dtype: jnp.asarray([row[name] for row in settings], dtype)
    return settings, Drawing(
        as_array("temperature", jnp.float32),
        as_array("top_k", jnp.int32),
        as_array("top_p", jnp.float32),
        jnp.arange(ROWS, dtype=jnp.uint32),
    )


@pytest.mark.parametrize("kinds", KINDS.values(), ids=KINDS)
def test_a_row_gets_what_sampling_chooses_for_it_alone(kinds):
    settings, drawing = make(kinds)
    logits = 2 * jax.random.normal(jax.random.key(0), (ROWS, VOCAB))
    steps = jnp.arange(ROWS) % 7
    tokens, logprobs = jax.jit(draw)(logits, drawing, steps)
    for i, row in enumerate(settings):
        key = jax.random.fold_in(jax.random.key(i), 0)[None]
        (wanted,) = Sampling(**row).choose(logits[i : i + 1], key, steps[i])
        assert tokens[i] == wanted
        np.testing.assert_allclose(logprobs[i], jax.nn.log_softmax(logits[i])[wanted], rtol=1e-6)


def test_a_vocabulary_is_put_in_order_only_where_a_row_asks_for_it():
    _, drawing = make([GREEDY])
    made = jax.make_jaxpr(draw)(jnp.zeros((ROWS, VOCAB)), drawing, jnp.zeros(ROWS, int))
    assert "sort" in str(made)
    assert "sort" not in {equation.primitive.name for equation in made.eqns}
