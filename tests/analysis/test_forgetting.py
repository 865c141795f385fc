"""What is left of an encoder's own domain: all of it in the base, less in one that was changed."""

from pathlib import Path

import jax
import numpy as np
import pytest

import lora_jax as lora
from lora_jax.analysis.forgetting import own_sentences
from lora_jax.data import Record

FIXTURES = Path(__file__).parent.parent / "fixtures"


def test_embeddings_of_the_base_stay_where_they_are_and_those_of_another_do_not():
    base = lora.hub.load_model(FIXTURES / "bert")
    words = ["a film", "good", "a good film", "film a", "bad"]
    pairs = [Record(text, float(i), f"{text} a film") for i, text in enumerate(words)]
    domain = own_sentences(base, pairs, 8, "mean")
    assert domain.scores == ("stsb_spearman", "embedding_cosine")
    before = domain.score_base(base)
    assert before["embedding_cosine"] == pytest.approx(1, abs=1e-5)
    assert -1 <= before["stsb_spearman"] <= 1

    inputs = [domain.examples[name] for name in ("ids", "mask", "mask")]
    lifted = lora.lift(
        base.apply, base.params, *inputs, targets=("q_proj", "fc2"), method=lora.LoRA(2)
    )
    factors = jax.tree.map(lambda x: x + 0.3, lifted.init(jax.random.key(0), base.params))
    variables = {"params": base.params, "adapter": factors}
    found = np.asarray(jax.jit(domain.predict(lifted))(variables, domain.examples))
    after = domain.grade(found, domain.examples)
    assert after["embedding_cosine"] < 0.999
    merged = jax.jit(domain.predict(None))(
        {"params": lifted.merge(base.params, factors)}, domain.examples
    )
    np.testing.assert_allclose(found, merged, atol=1e-5)
    assert np.isnan([*domain.grade(found * np.nan, domain.examples).values()]).all()
