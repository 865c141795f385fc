"""Times to the first token and of each later one: what is run, how often, and what is refused."""

import jax
import numpy as np
import pytest

import lora_jax as lora
from lora_jax import models
from lora_jax.evaluation import generate, measure_responses

IDS = np.array([[1, 2, 3], [4, 5, 6]])


@pytest.fixture(scope="module")
def decoder():
    # Token 0 would end a text at once: an answer that is timed goes on.
    config = models.GPT2Config(vocab_size=9, dim=8, heads=2, layers=1, ff_dim=8, eos_ids=(0,))
    return config, models.build(config).apply, models.init(config, jax.random.key(0))


def test_an_answer_is_one_prompt_and_all_its_tokens(decoder):
    config, apply, params = decoder
    lengths = []

    def counted(params, ids, *args, **named):
        jax.debug.callback(lambda: lengths.append(ids.shape[1]))
        return apply(params, ids, *args, **named)

    ends_at_once = jax.tree.map(np.zeros_like, params)  # all logits are equal: token 0 is chosen
    made = generate(apply, ends_at_once, IDS, config=config, max_new_tokens=5)
    assert made.lengths.tolist() == [1, 1]
    times = measure_responses(
        {"base": (counted, ends_at_once)}, config, IDS, new_tokens=5, rounds=3, warmup=1
    )
    jax.effects_barrier()
    assert lengths == [3, 1, 1, 1, 1] * 4
    assert times["base"].first.seconds.shape == times["base"].token.seconds.shape == (3,)
    assert (times["base"].token.seconds > 0).all()


def test_an_adapter_beside_the_base_and_one_merged_into_it_are_timed_together(decoder):
    config, apply, params = decoder
    lifted = lora.lift(apply, params, IDS, method=lora.LoRA(2), targets=("q_proj",))
    factors = lifted.init(jax.random.key(1), params)

    def beside(variables, *args, **named):
        return lifted(variables["params"], variables["adapter"], *args, **named)

    times = measure_responses(
        {
            "beside": (beside, {"params": params, "adapter": factors}),
            "merged": (apply, lifted.merge(params, factors)),
        },
        config,
        IDS,
        new_tokens=3,
        rounds=4,
    )
    assert times["beside"].token.ratio_to(times["merged"].token)[0] > 0
    assert len(times["merged"].first.seconds) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rounds": 0}, "nothing to time"),
        ({"new_tokens": 1}, "the first belongs to the prompt"),
        ({"models": {}}, "0 models"),
        ({"ids": np.array([[99]])}, "vocabulary is 9"),
    ],
)
def test_what_cannot_be_timed_is_refused_before_anything_is_compiled(decoder, change, message):
    config, apply, params = decoder
    asked = {"models": {"base": (apply, params)}, "ids": IDS, "new_tokens": 3, "rounds": 1}
    with pytest.raises(ValueError, match=message):
        measure_responses(config=config, **(asked | change))
