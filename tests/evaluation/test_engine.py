"""Continuous batching: what a request gets does not depend on who else is served."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lora_jax as lora
from lora_jax import models
from lora_jax.evaluation import Engine, QueueFullError, Sampling, TextRequest, generate
from tests.tiny_decoder import tiny_decoder

CONFIG = tiny_decoder(eos_ids=(3,))
APPLY = models.build(CONFIG).apply
PARAMS = jax.tree.map(lambda x: x * 4, jax.jit(lambda k: models.init(CONFIG, k))(jax.random.key(0)))
LIFTED = lora.lift(
    APPLY, PARAMS, jnp.ones((1, 4), jnp.int32), method=lora.LoRA(2), targets=lora.ALL_LINEAR
)
ROWS, ROOM = 3, 24


def random_factors(seed):
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(LIFTED.init, jax.random.key(0), PARAMS)
    return jax.tree.map(lambda x: 0.3 * rng.standard_normal(x.shape, np.float32), shapes)


def new_pool(count=4):
    pool = lora.AdapterPool(LIFTED, PARAMS, slots=2)  # fewer slots than adapters and rows
    for i in range(count):
        pool.add(f"a{i}", LIFTED, random_factors(i))
    return pool


def random_requests(count, seed=0):
    rng = np.random.default_rng(seed)
    requests = []
    for i in range(count):
        drawn = bool(rng.integers(2))
        requests.append(
            TextRequest(
                ids=tuple(rng.integers(4, 40, rng.integers(1, 9)).tolist()),
                adapter=None if i % 5 == 4 else f"a{rng.integers(4)}",
                max_new_tokens=int(rng.integers(1, 13)),
                temperature=1.5 * drawn,
                top_k=int(rng.integers(0, 20)) * drawn,
                top_p=float(rng.uniform(0.5, 1.0)) if drawn else 1.0,
                seed=int(rng.integers(1000)),
            )
        )
    return requests


@pytest.fixture(scope="module")
def engine():
    return Engine(new_pool(), CONFIG, rows=ROWS, room=ROOM, prompt_lengths=(4, 8), queue_limit=40)


def offline(engine, request):
    """The text of one request alone, by `generate`."""
    length = 4 if len(request.ids) <= 4 else 8
    ids = np.zeros((1, length), np.int32)
    ids[0, : len(request.ids)] = request.ids
    search = Sampling(temperature=request.temperature, top_k=request.top_k, top_p=request.top_p)
    made = generate(
        engine.pool.routed.apply,
        engine.pool.variables([request.adapter]),
        ids,
        np.arange(length)[None] < len(request.ids),
        config=CONFIG,
        max_new_tokens=request.max_new_tokens,
        search=search,
        key=jax.random.key(request.seed)[None],
    )
    return made.tokens[0, : made.lengths[0]].tolist(), np.asarray(made.logprobs[0])


def tokens(events):
    return [event.token for event in events if event.token is not None]


@pytest.mark.slow
def test_every_answer_is_the_offline_one_of_its_seed(engine):
    requests = random_requests(7)
    numbers = [engine.submit(request) for request in requests]
    texts = engine.run()
    for number, request in zip(numbers, requests, strict=True):
        wanted, logprobs = offline(engine, request)
        assert tokens(texts[number]) == wanted, request
        found = [event.logprob for event in texts[number]]
        np.testing.assert_allclose(found, logprobs[: len(found)], atol=1e-4)
        ended = [event.end for event in texts[number]]
        assert ended[:-1] == [None] * (len(ended) - 1)
        assert ended[-1] == ("stop" if wanted[-1] == 3 else "length")


def test_an_answer_does_not_depend_on_its_company(engine):
    requests = random_requests(24, seed=1)
    numbers = [engine.submit(request) for request in requests]
    together = engine.run()
    assert engine.waiting == engine.running == 0
    for number, request in reversed([*zip(numbers, requests, strict=True)][::3]):
        again = engine.submit(request)
        alone = engine.run()[again]
        assert [event[1:] for event in alone] == [event[1:] for event in together[number]]
    assert len({tuple(tokens(text)) for text in together.values()}) > 12


def test_a_request_joins_while_others_are_being_written(engine):
    long = [engine.submit(TextRequest(ids=(5, i + 6), max_new_tokens=12)) for i in range(2)]
    events = engine.step() + engine.step()
    late = engine.submit(TextRequest(ids=(9,), adapter="a1", max_new_tokens=2))
    events += engine.step()
    mine = [event for event in events if event.number == late]
    assert [event.end for event in mine] in ([None, "length"], [None, "stop"], ["stop"])
    assert engine.running == sum(not any(e.number == n and e.end for e in events) for n in long)
    engine.run()


def test_an_adapter_may_leave_while_its_text_is_being_written(engine):
    request = TextRequest(ids=(7, 8), adapter="new", max_new_tokens=6, temperature=1.0, seed=4)
    engine.pool.add("new", LIFTED, random_factors(9))
    first = engine.submit(request)
    whole = engine.run()[first]
    second = engine.submit(request)
    events = engine.step()
    third = engine.submit(request)
    engine.pool.remove("new")
    rest = engine.run()
    written = [*(e for e in events if e.number == second), *rest.get(second, [])]
    assert tokens(written) == tokens(whole)
    assert [event.end for event in rest[third]] == ["unloaded"]
    with pytest.raises(ValueError, match="no adapter 'new'; the nearest"):
        engine.submit(request)


def test_cancelled_requests_leave_their_rows(engine):
    numbers = [
        engine.submit(TextRequest(ids=(6, i + 4), max_new_tokens=12, stop_ids=()))
        for i in range(ROWS + 1)
    ]
    engine.step()
    engine.cancel(numbers[0])
    engine.cancel(numbers[-1])
    engine.cancel(12345)
    rest = engine.run()
    assert rest[numbers[0]][-1].end == rest[numbers[-1]][-1].end == "cancelled"
    assert tokens(rest[numbers[-1]]) == []
    assert engine.waiting == engine.running == 0


def test_nothing_is_compiled_after_the_first_texts(engine):
    engine.submit(TextRequest(ids=(5,), max_new_tokens=2))
    engine.submit(TextRequest(ids=(5,) * 6, max_new_tokens=2))
    engine.run()
    names = []

    def listen(event, duration, **details):
        if event == "/jax/core/compile/backend_compile_duration":
            names.append(details.get("fun_name"))

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        engine.pool.add("a2", LIFTED, random_factors(12))
        for request in random_requests(9, seed=2):
            engine.submit(request)
        engine.run()
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
        engine.pool.add("a2", LIFTED, random_factors(2))
    assert names == []


def test_what_does_not_fit_is_refused(engine):
    wrong = {
        "from 0 to 39": {"ids": ()},
        "tokens from 0 to 39": {"ids": (40,)},
        "the prompt is 9 tokens, and the longest is 8": {"ids": (5,) * 9},
        "max_new_tokens = 22; after this prompt it is from 1 to 21": {"max_new_tokens": 22},
        "max_new_tokens = 0": {"max_new_tokens": 0},
        "temperature": {"temperature": -1.0},
        "top_p": {"top_p": 0.0},
        "seed = -1": {"seed": -1},
        "no adapter 'b0'; the nearest are 'a0'": {"adapter": "b0"},
    }
    for message, fields in wrong.items():
        with pytest.raises(ValueError, match=message):
            engine.submit(TextRequest(**({"ids": (5,), "max_new_tokens": 4} | fields)))
    assert engine.waiting == 0
    with pytest.raises(ValueError, match="room = 64, but the model has 32 positions"):
        Engine(engine.pool, CONFIG, room=64, prompt_lengths=(8,))
    with pytest.raises(ValueError, match="room = 64, but prompts have up to 128"):
        Engine(engine.pool, CONFIG, room=64)
    with pytest.raises(ValueError, match="at least 1"):
        Engine(engine.pool, CONFIG, rows=0, room=8)


def test_a_full_queue_refuses_more(engine):
    numbers = [engine.submit(TextRequest(ids=(5,), max_new_tokens=1)) for _ in range(40)]
    with pytest.raises(QueueFullError, match="40 requests wait"):
        engine.submit(TextRequest(ids=(5,), max_new_tokens=1))
    for number in numbers:
        engine.cancel(number)
    assert {event.end for event in engine.step()} == {"cancelled"}
    assert engine.waiting == 0
