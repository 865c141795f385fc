"""What generation promises, whatever the model."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lora_jax as lora
from lora_jax import models
from lora_jax.evaluation import Sampling, generate
from lora_jax.evaluation.decode import begin_decoding, continue_decoding
from tests.evaluation.languages import Config, bigram, random_table, saying, script

GPT2 = models.GPT2Config(
    vocab_size=40, dim=16, layers=2, heads=2, ff_dim=24, positions=24, eos_ids=(), scan=False
)
APPLY = models.build(GPT2).apply
PARAMS = jax.tree.map(lambda x: x * 10, models.init(GPT2, jax.random.key(0)))
IDS = np.array([[7, 11, 30, 5], [9, 21, 0, 0], [33, 0, 0, 0]])
MASK = (IDS > 0).astype(np.int32)
NEW = 6
DRAWN = Sampling(temperature=1.0, top_k=20, top_p=0.95, min_p=0.01)


def to_the_right(rows):
    return np.array([np.roll(row, -int(mask.sum())) for row, mask in zip(rows, MASK, strict=True)])


def gpt2(ids=IDS, mask=MASK, **options):
    options = {"config": GPT2, "max_new_tokens": NEW} | options
    return generate(
        options.pop("apply", APPLY), options.pop("params", PARAMS), ids, mask, **options
    )


def table(prompts, **options):
    options = {"config": Config(), "max_new_tokens": NEW} | options
    return generate(bigram, random_table(6), prompts, **options)


def test_greedy_tokens_are_the_likeliest_after_the_text_before_them():
    made = gpt2()
    lengths = MASK.sum(axis=1)
    texts = np.zeros((len(IDS), IDS.shape[1] + NEW), np.int32)
    texts[:, : IDS.shape[1]] = IDS
    places = lengths[:, None] + np.arange(NEW)
    np.put_along_axis(texts, places, np.asarray(made.tokens), axis=1)
    logprobs = jax.nn.log_softmax(jax.jit(APPLY)(PARAMS, texts), axis=-1)
    wanted = np.take_along_axis(np.asarray(logprobs), places[..., None] - 1, axis=1)
    assert made.tokens.tolist() == wanted.argmax(axis=-1).tolist()
    np.testing.assert_allclose(made.logprobs, wanted.max(axis=-1), atol=1e-5)
    np.testing.assert_allclose(made.scores, wanted.max(axis=-1).sum(axis=1), atol=1e-4)
    assert made.lengths.tolist() == [NEW] * 3
    assert not made.finished.any()


def test_the_side_of_the_padding_does_not_matter():
    rules = Sampling(repetition_penalty=1.5, no_repeat_ngram=2)
    wanted = gpt2(search=rules)
    found = gpt2(to_the_right(IDS), to_the_right(MASK), search=rules)
    assert found.tokens.tolist() == wanted.tokens.tolist()
    np.testing.assert_allclose(found.logprobs, wanted.logprobs, atol=1e-5)


def test_a_text_depends_on_its_prompt_and_key_alone():
    keys = jax.random.split(jax.random.key(5), 3)
    first = gpt2(search=DRAWN, key=keys)
    others = jnp.array([2, 1, 0])
    second = gpt2(IDS[others], MASK[others], search=DRAWN, key=keys[others])
    assert second.tokens[others].tolist() == first.tokens.tolist()


def test_the_same_key_draws_the_same_and_another_does_not():
    first, second = (gpt2(search=DRAWN, key=jax.random.key(1)).tokens for _ in range(2))
    other = gpt2(search=DRAWN, key=jax.random.key(2)).tokens
    assert first.tolist() == second.tolist()
    assert first.tolist() != other.tolist()
    old_style = gpt2(search=DRAWN, key=jax.random.PRNGKey(1)).tokens
    assert old_style.tolist() == first.tolist()


def test_several_texts_of_a_prompt_lie_side_by_side_and_begin_with_the_only_one():
    drawn = Sampling(temperature=1.0)
    options = {"search": drawn, "key": jax.random.key(1), "max_new_tokens": 12}
    alone, several = table([[1], [2]], **options), table([[1], [2]], sequences=3, **options)
    assert several.tokens[::3].tolist() == alone.tokens.tolist()
    texts = [tuple(row) for row in several.tokens.tolist()]
    assert len(set(texts)) == 6


def test_sampled_tokens_follow_the_model():
    rows = 4000
    made = table(np.full((rows, 1), 3), search=Sampling(temperature=1.0), key=jax.random.key(0))
    tokens = np.asarray(made.tokens)
    chances = np.asarray(jax.nn.softmax(random_table(6), axis=-1))
    for before, after in ((np.full(rows, 3), tokens[:, 0]), (tokens[:, 3], tokens[:, 4])):
        for token in np.unique(before):
            found = np.bincount(after[before == token], minlength=6) / (before == token).sum()
            error = 5 * np.sqrt(0.25 / (before == token).sum())
            np.testing.assert_allclose(found, chances[token], atol=error)


def test_a_text_ends_with_its_first_stop_token_and_is_filled_up():
    tokens = [3, 4, 3, 5, 2, 4, 4]
    config = Config(eos_ids=(5, 2))
    say = saying(tokens, 6)
    made = generate(script, say, [[1]], config=config, max_new_tokens=7)
    assert made.tokens.tolist() == [[3, 4, 3, 5, 0, 0, 0]]
    assert (made.lengths.tolist(), made.finished.tolist()) == ([4], [True])
    assert (np.asarray(made.logprobs)[0, 4:] == 0).all()
    longer = Sampling(min_new_tokens=4)
    made = generate(script, say, [[1]], config=config, max_new_tokens=7, search=longer)
    assert made.lengths.tolist() == [5]
    assert 5 not in made.tokens.tolist()[0]
    own = Sampling(stop_ids=(4,))
    made = generate(script, say, [[1]], config=config, max_new_tokens=7, search=own)
    assert made.tokens.tolist() == [[3, 4, 0, 0, 0, 0, 0]]


def test_the_loop_ends_with_the_last_text():
    config = Config(eos_ids=(5,))
    greedy = Sampling(stop_ids=(5,))
    ids, mask = jnp.array([[1, 1], [0, 1]]), jnp.array([[1, 1], [0, 1]])
    say = saying([3, 4, 5, 5, 5, 5, 5, 5], 6)
    state = begin_decoding(script, config, greedy, 8, 1, say, ids, mask, None, None, {})
    state = continue_decoding(script, config, greedy, say, state, jnp.int32(8))
    assert state.lengths.tolist() == [2, 3]
    assert state.step == 3


def test_another_prompt_of_the_same_shape_compiles_nothing():
    traced = []

    def apply(*args, **named):
        traced.append(1)
        return bigram(*args, **named)

    def run(prompts, key):
        generate(
            apply,
            random_table(6),
            prompts,
            config=Config(),
            max_new_tokens=NEW,
            search=Sampling(temperature=0.7),
            key=jax.random.key(key),
        )
        return len(traced)

    first = run([[1, 2], [3, 4]], 0)
    assert run([[5, 5], [1, 0]], 1) == first
    assert run([[5, 5, 1], [1, 0, 2]], 1) > first


def test_what_the_model_has_read_before_counts():
    cache = models.new_cache(GPT2, 1, 12)
    read = jax.jit(functools.partial(APPLY, outputs="last"))
    _, cache = read(PARAMS, IDS[:1, :2], cache=cache)
    found = gpt2(IDS[:1, 2:], None, cache=cache)
    assert found.tokens.tolist() == gpt2(IDS[:1], None).tokens.tolist()


def loop_bodies(program):
    """The lines of all that a compiled program does in loops, by the name of the body."""
    blocks, block = {}, []
    for line in program.splitlines():
        if start := re.match(r"(?:ENTRY )?%?([\w.-]+) \(.*{$", line):
            block = blocks.setdefault(start[1], [])
        block.append(line)

    def inside(name):
        called = [re.findall(r"calls=%?([\w.-]+)", line) for line in blocks[name]]
        return blocks[name] + [line for names in called for n in names for line in inside(n)]

    return {name: inside(name) for name in re.findall(r"body=%?([\w.-]+)", program)}


@pytest.mark.parametrize(
    ("dtype", "scan"), [("float32", False), ("bfloat16", False), ("bfloat16", True)]
)
def test_a_step_neither_copies_the_cache_nor_slices_the_weights(dtype, scan):
    config = dataclasses.replace(GPT2, dtype=dtype, scan=scan)
    params = models.init(config, jax.random.key(0))
    apply = models.build(config).apply

    def run(params):
        return generate(apply, params, IDS, MASK, config=config, max_new_tokens=NEW).tokens

    bodies = loop_bodies(jax.jit(run).lower(params).compile().as_text())
    cache = "2,3,2,9,8"  # layers, batch, heads, slots, width of a head
    assert any(f"[{cache}]" in line for lines in bodies.values() for line in lines)
    whole = rf"= \w+\[{cache}\]\S* (copy|convert|transpose)\("
    for lines in bodies.values():
        assert not [line for line in lines if re.search(whole, line)]
        if not scan:
            sliced = r"= \w+\[1?,?(16,24|24,16|16,16)\]\S* (slice|copy|convert)\("
            assert not [line for line in lines if re.search(sliced, line)]


@pytest.fixture(scope="module")
def adapted():
    lifted = lora.lift(
        APPLY, PARAMS, IDS, MASK, method=lora.LoRA(rank=2, alpha=8), targets=("q_proj", "fc1")
    )
    keys = jax.random.split(jax.random.key(3), 2)
    noise = lambda x: x + 0.5 * jax.random.normal(jax.random.key(x.size), x.shape)
    factors = [jax.tree.map(noise, lifted.init(key, PARAMS)) for key in keys]

    def apply(variables, *args, **named):
        return lifted(variables["params"], variables["factors"], *args, **named)

    return lifted, apply, factors


def test_an_adapted_model_says_what_the_merged_one_says(adapted):
    lifted, apply, (factors, _) = adapted
    found = gpt2(apply=apply, params={"params": PARAMS, "factors": factors})
    wanted = gpt2(params=lifted.merge(PARAMS, factors))
    assert found.tokens.tolist() == wanted.tokens.tolist()
    assert found.tokens.tolist() != gpt2().tokens.tolist()
    np.testing.assert_allclose(found.logprobs, wanted.logprobs, atol=1e-4)


def test_many_adapters_speak_at_once(adapted):
    lifted, apply, factors = adapted
    say = lambda one: gpt2(apply=apply, params={"params": PARAMS, "factors": one}).tokens
    found = jax.vmap(say)(lora.stack(factors))
    for ours, one in zip(found, factors, strict=True):
        merged = lifted.merge(PARAMS, one)
        assert ours.tolist() == gpt2(params=merged).tokens.tolist()


@pytest.mark.parametrize(
    ("prompts", "options", "message"),
    [
        ([[1, 9]], {}, "token 9, but the model's vocabulary is 6"),
        ([1, 2], {}, r"ids are int64\[2\]; wanted integers \[batch, length\]"),
        ([[1.5]], {}, "wanted integers"),
        ([[1] * 65], {}, "prompts are 65 tokens long, but the model's context is 64"),
        ([[1] * 60], {}, r"room for 5 new ones in the model's context of 64, but .* = 6"),
        ([[1]], {"max_new_tokens": 0}, "max_new_tokens = 0; it must be at least 1"),
        ([[1]], {"mask": [[0]]}, "prompt 0 has no real token"),
        ([[1]], {"mask": [[1, 1]]}, r"ids are \[1, 1\], but the mask is \[1, 2\]"),
        ([[1]], {"search": Sampling(temperature=1.0)}, r"needs key=jax.random.key"),
        ([[1]], {"sequences": 2}, "greedy decoding makes one text"),
        ([[1]], {"search": Sampling(stop_ids=(6,))}, "stop_ids have 6, but .* vocabulary is 6"),
        ([[1]], {"cache": (1, 5)}, "fill 6 slots, but 5 of the cache's 5 are free"),
        ([[1]], {"cache": (2, 9)}, "1 prompts, but the cache has 2 rows"),
    ],
)
def test_what_does_not_fit_is_refused_before_it_compiles(prompts, options, message):
    if "cache" in options:
        options = options | {"cache": models.new_cache(Config(), *options["cache"])}
    with pytest.raises(ValueError, match=message):
        table(prompts, **options)


def test_keys_must_be_as_many_as_prompts():
    keys = jax.random.split(jax.random.key(0), 3)
    with pytest.raises(ValueError, match="2 prompts, but keys \\[3\\]"):
        table([[1], [2]], search=Sampling(temperature=1.0), key=keys)
