"""Frozen means frozen: a lifted model is searched for what must not exist in it."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np

import lora_jax as lora
from lora_jax import training

# No two sizes are equal, so that a shape tells what an array is.
LAYERS, DIM, WIDE, RANK, BATCH, CLASSES = 3, 16, 24, 2, 8, 5

LORA = [("adapter/.*", "adapter"), ("params/.*", None)]
FULL = [("params/.*", "params"), ("adapter/.*", None)]


def model(params, x):
    @jax.checkpoint
    def layer(x, weights):
        hidden = jax.nn.gelu(x @ weights["up"] + weights["bias"])
        return x + hidden @ weights["down"], None

    x, _ = jax.lax.scan(layer, x, params["layers"])
    return x @ params["out"]


def base():
    up, down, out = jax.random.split(jax.random.key(0), 3)
    return {
        "layers": {
            "up": jax.random.normal(up, (LAYERS, DIM, WIDE)) / DIM**0.5,
            "bias": jnp.zeros((LAYERS, WIDE)),
            "down": jax.random.normal(down, (LAYERS, WIDE, DIM)) / WIDE**0.5,
        },
        "out": jax.random.normal(out, (DIM, CLASSES)),
    }


def batch(number):
    rng = np.random.default_rng(number)
    x = rng.normal(size=(BATCH, DIM)).astype(np.float32)
    return jax.device_put({"x": x, "label": (x[:, :CLASSES]).argmax(-1)})


def build(rules):
    params = base()
    example = jnp.ones((BATCH, DIM))
    lifted = lora.lift(model, params, example, targets=("up", "down"), method=lora.LoRA(rank=RANK))

    def loss_fn(variables, batch, key):
        logits = lifted(variables["params"], variables["adapter"], batch["x"])
        right = jnp.take_along_axis(logits, batch["label"][:, None], axis=-1)
        return jnp.mean(jax.nn.logsumexp(logits, axis=-1, keepdims=True) - right), {}

    variables = {"params": params, "adapter": lifted.init(jax.random.key(1), params)}
    labels = training.label(variables, rules)
    optimizer = training.make_optimizer({"learning_rate": 0.02}, labels, steps=20)
    state, frozen = training.init_state(variables, labels, optimizer, jax.random.key(2))
    return training.make_step(loss_fn, optimizer), state, frozen


def base_shapes():
    """The shapes of every weight, of its slice for one layer, and of their transposes."""
    shapes = set()
    for x in jax.tree.leaves(base()):
        for shape in (x.shape, x.shape[1:]):
            shapes |= set(itertools.permutations(shape)) if len(shape) > 1 else set()
    return shapes - {(BATCH, CLASSES)}


def traced_shapes(step, *args):
    """The shape of every value that the traced program computes, inner programs included."""
    program = str(jax.make_jaxpr(step)(*args))
    # An equation is printed as "name:f32[8,16] name:f32[] = primitive ...".
    made = re.findall(r"^\s*((?:\w+:\S+ )+)= ", program, flags=re.MULTILINE)
    found = re.findall(r"\[([\d,]*)\]", " ".join(made))
    return {tuple(int(n) for n in shape.split(",") if n) for shape in found}


def compiled_operations(step, *args):
    """Each operation of the compiled program whose result has the shape of a weight."""
    program = step.lower(*args).compile().as_text()
    made = re.findall(r"= \w+\[([\d,]+)\]\S* ([\w-]+)\(", program)
    shapes = base_shapes()
    return {
        operation
        for shape, operation in made
        # A layer's slice keeps an axis of length 1.
        if tuple(int(n) for n in shape.split(",") if n != "1") in shapes
    }


def test_training_an_adapter_leaves_every_bit_of_the_base():
    step, state, frozen = build(LORA)
    before = [np.array(x) for x in jax.tree.leaves(frozen)]
    assert len(before) == 4
    losses = []
    for number in range(20):
        state, metrics = step(state, frozen, batch(number))
        losses.append(float(metrics["loss"]))
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    for x, y in zip(before, jax.tree.leaves(frozen), strict=True):
        np.testing.assert_array_equal(x, y)


def test_no_state_of_a_base_shape_exists():
    _, state, _ = build(LORA)
    assert not base_shapes() & {x.shape for x in jax.tree.leaves(state)}
    _, full, _ = build(FULL)
    assert base_shapes() & {x.shape for x in jax.tree.leaves(full.opt_state)}


def test_no_value_of_a_base_shape_is_traced():
    assert not base_shapes() & traced_shapes(*build(LORA), batch(0))
    assert base_shapes() & traced_shapes(*build(FULL), batch(0))


def test_the_compiled_program_only_reads_the_base():
    # What lies inside a fusion is listed too, by its own operations.
    reads = {"parameter", "get-tuple-element", "bitcast", "copy", "dynamic-slice", "fusion"}
    assert compiled_operations(*build(LORA), batch(0)) <= reads
    assert compiled_operations(*build(FULL), batch(0)) >= {"dot", "dynamic-update-slice"}
