"""Layers apart train and write as stacked ones do, and no program copies their weights."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.case import QUICK

import lora_jax as lora
from lora_jax import models, training
from lora_jax.evaluation import Engine, TextRequest, generate
from lora_jax.evaluation.passes import read_token
from lora_jax.training import language_model

# No other array has the shape of a weight: sizes are chosen apart.
CONFIG = models.GPT2Config(
    vocab_size=56, dim=48, layers=3, heads=2, ff_dim=80, positions=12, scan=False, eos_ids=()
)


def run(kind, apart):
    """A compiled step with what it takes: state, frozen tree and batch."""
    model = models.build(CONFIG)
    params = models.init(CONFIG, jax.random.key(0))
    params = params if kind is None else lora.quantize(params, kind, block=8)
    ids = jax.random.randint(jax.random.key(1), (2, 12), 0, CONFIG.vocab_size)
    lifted = lora.lift(
        model.apply, params, ids, method=lora.LoRA(2), targets=("q_proj", "v_proj"), strict=True
    )
    variables = {"params": params, "adapter": lifted.init(jax.random.key(2), params)}
    labels = training.label(variables, [("adapter/.*", "trained"), ("params/.*", None)])
    optimizer = training.make_optimizer({"learning_rate": 1e-2}, labels, 10)
    state, frozen = training.init_state(variables, labels, optimizer, jax.random.key(3))

    def loss(variables, batch, key):
        logits = lifted(variables["params"], variables["adapter"], batch, rng=key)
        return -jax.nn.log_softmax(logits)[..., 0].mean(), {}

    step = functools.partial(jax.jit, compiler_options=QUICK)(training.make_step(loss, optimizer))
    return step, state, training.unstack(frozen) if apart else frozen, ids


@pytest.mark.parametrize("kind", [None, "int8"])
def test_layers_apart_make_the_same_steps(kind):
    found = []
    for apart in (True, False):
        step, state, frozen, ids = run(kind, apart)
        losses = []
        for _ in range(3):
            state, metrics = step(state, frozen, ids)
            losses.append(metrics["loss"])
        found.append((losses, state.trainable))
    assert found[0][0][0] > found[0][0][2]
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), *found)


def copies(step, *args):
    """Weights of a layer that a compiled program makes, by whatever means."""
    text = step.lower(*args).compile().as_text()
    entry = text[text.index("ENTRY") :]
    made = re.findall(r"= f32\[(?:1,)?(\d+),(\d+)\]\S* (?!parameter|bitcast)\w+", entry)
    return sum(
        (int(rows), int(columns)) in {(48, 48), (48, 80), (80, 48)} for rows, columns in made
    )


def test_only_stacked_layers_are_copied():
    step, *args = run(None, apart=True)
    assert copies(step, *args) == 0
    step, *args = run(None, apart=False)
    assert copies(step, *args) >= 6 * CONFIG.layers


@pytest.mark.parametrize("method", [lora.LoRA(2), lora.DoRA(2)], ids=str)
def test_texts_of_a_pool_are_the_same_and_their_tokens_copy_no_weights(method):
    model, stacks = models.build(CONFIG), models.init(CONFIG, jax.random.key(0))
    ids = jax.random.randint(jax.random.key(1), (2, 4), 0, CONFIG.vocab_size)
    lifted = lora.lift(model.apply, stacks, ids, method=method, targets=("q_proj", "v_proj"))
    factors = lifted.init(jax.random.key(2), stacks)
    factors = jax.tree.map(lambda x: x + jax.random.normal(jax.random.key(3), x.shape), factors)
    texts, copied, written = [], [], []
    for params in (stacks, models.unstack(stacks)):
        pool = lora.AdapterPool(lifted, params, slots=1)
        pool.add("one", lifted, factors)
        variables = pool.variables(["one", None])
        made = generate(pool.routed.apply, variables, ids, config=CONFIG, max_new_tokens=8)
        texts.append(np.asarray(made.tokens))
        cache = models.new_cache(CONFIG, 2, 12)
        read = jax.jit(functools.partial(read_token, pool.routed.apply, CONFIG))
        copied.append(copies(read, variables, ids[:, 0], cache))
        engine = Engine(pool, CONFIG, rows=2, room=12, prompt_lengths=(4,))
        for row, adapter in zip(ids.tolist(), ("one", None), strict=True):
            engine.submit(TextRequest(ids=tuple(row), adapter=adapter, max_new_tokens=8))
        written.append([[event.token for event in events] for events in engine.run().values()])
    np.testing.assert_array_equal(*texts)
    assert written[0] == written[1] == texts[0].tolist()
    assert (texts[0][0] != texts[0][1]).any()
    assert copied[0] >= 6 * CONFIG.layers
    assert copied[1] == 0


def test_the_stacks_are_made_again():
    tree = {"layers": {"w": jnp.arange(6.0).reshape(2, 3)}, "norm": jnp.ones(3)}
    again = models.restack(models.unstack(tree))
    assert again["norm"] is tree["norm"]
    np.testing.assert_array_equal(again["layers"]["w"], tree["layers"]["w"])
    assert models.restack(tree)["layers"]["w"] is tree["layers"]["w"]
    second = models.unstack(tree, axis=1)["layers"]["w"]
    assert [part.tolist() for part in second.parts] == [[0, 3], [1, 4], [2, 5]]
    again = models.restack({"w": second})
    np.testing.assert_array_equal(again["w"], tree["layers"]["w"])


def test_the_parts_are_joined_as_they_were():
    tree = {"layers": {"w": jnp.arange(6.0).reshape(2, 3)}, "norm": jnp.ones(3), "x": None}
    apart = training.unstack(tree)
    assert [part.shape for part in apart["layers"]["w"].parts] == [(3,), (3,)]
    joined = training.join({"layers": {"w": None}, "norm": None, "x": None}, apart)
    assert joined["norm"] is tree["norm"]
    np.testing.assert_array_equal(joined["layers"]["w"], tree["layers"]["w"])


def test_a_tree_without_layers_is_refused():
    with pytest.raises(ValueError, match=r"no array has a path like .*'norm'"):
        training.unstack({"norm": jnp.ones(3)})


def test_what_is_trained_holds_no_params():
    """So whoever lets go of the base frees it."""
    base = lora.hub.Pretrained(models.build(CONFIG).apply, {"w": jnp.ones(3)}, CONFIG, None, None)
    outputs = language_model.make_outputs(base, None)
    assert not any(cell.cell_contents is base for cell in outputs.__closure__)
