"""A small model with a head, for tests of sweeps: its members alone, and all of them together."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console

import lora_jax as lora
from lora_jax import training
from lora_jax.data.loader import training_batches

DIM, WIDE, LAYERS, BATCH = 8, 12, 3, 6
QUIET = Console(quiet=True)
CLASSES = {"colours": 3, "shapes": 2}


def _params():
    keys = iter(jax.random.split(jax.random.key(11), 8))
    matrix = lambda *shape: jax.random.normal(next(keys), shape) / shape[-2] ** 0.5
    layers = {name: {"kernel": matrix(LAYERS, DIM, DIM)} for name in ("q_proj", "o_proj")}
    layers["fc1"] = {"kernel": matrix(LAYERS, DIM, WIDE)}
    layers["fc2"] = {"kernel": matrix(LAYERS, WIDE, DIM)}
    return {"layers": layers}


PARAMS = _params()


def encode(params, x):
    def layer(x, weights):
        q = x @ weights["q_proj"]["kernel"]
        x = x + jnp.tanh(q) @ weights["o_proj"]["kernel"]
        wide = jax.nn.gelu(x @ weights["fc1"]["kernel"])
        return x + wide @ weights["fc2"]["kernel"], None

    return jax.lax.scan(layer, x, params["layers"])[0]


def examples(task):
    rng = np.random.default_rng(len(task))
    x = rng.normal(size=(50, DIM)).astype(np.float32)
    score = x @ rng.normal(size=(DIM, CLASSES[task]))
    return {"x": x, "label": score.argmax(-1).astype(np.int32)}


def data(member):
    return training_batches(examples(member.task), BATCH, seed=member.data[1])


def init(member, lifted, key):
    for_head, for_adapter = jax.random.split(key)
    head = 0.1 * jax.random.normal(for_head, (DIM, member.outputs))
    variables = {"params": PARAMS, "head": {"kernel": head, "bias": jnp.zeros(member.outputs)}}
    if lifted is not None:
        variables["adapter"] = lifted.init(for_adapter, PARAMS)
    return variables


def logits(lifted, variables, batch, rng=None):
    if lifted is None:
        hidden = encode(variables["params"], batch["x"])
    else:
        hidden = lifted(variables["params"], variables["adapter"], batch["x"], rng=rng)
    found = hidden @ variables["head"]["kernel"] + variables["head"]["bias"]
    if "classes" in variables:
        found = jnp.where(jnp.arange(found.shape[-1]) < variables["classes"], found, -jnp.inf)
    return found


def loss(lifted):
    def loss_fn(variables, batch, key):
        found = logits(lifted, variables, batch, rng=key)
        each = optax.softmax_cross_entropy_with_integer_labels(found, batch["label"])
        return each.mean(), {"accuracy": (found.argmax(-1) == batch["label"]).mean()}

    return loss_fn


def member(name, targets=("q_proj",), task="colours", **fields):
    """A member; fields of its optimiser are given beside its own."""
    own = {k: fields.pop(k) for k in ("method", "seed", "data_seed", "outputs") if k in fields}
    own = {"method": lora.LoRA(rank=2, alpha=4.0), "outputs": CLASSES[task], **own}
    if "rule" in fields:
        fields["name"] = fields.pop("rule")
    optimizer = {"learning_rate": 2e-3, "warmup": 0.1, "weight_decay": 0.01, **fields}
    return training.Member(name=name, targets=targets, task=task, optimizer=optimizer, **own)


def sweep(members, steps, **options):
    x = jax.ShapeDtypeStruct((BATCH, DIM), jnp.float32)
    options = {"init": init, "loss": loss, **options}
    return training.make_sweep(encode, PARAMS, x, members=members, steps=steps, **options)


def train_together(members, steps, **options):
    """The runs of all members, by name."""
    return training.train_sweep(sweep(members, steps, **options), data, console=QUIET)


def train_alone(member, steps, rules=None):
    """The rows and the variables of one member, made without a sweep."""
    x = jnp.zeros((BATCH, DIM))
    lifted = None
    if member.targets:
        options = {"targets": member.targets, "method": member.method}
        lifted = lora.lift(encode, PARAMS, x, **options)
    variables = init(member, lifted, jax.random.key(member.seed))
    rules = rules or (training.LORA if lifted else training.HEAD_ONLY)
    labels = training.label(variables, rules, lifted.frozen if lifted else ())
    optimizer = training.make_optimizer(member.optimizer, labels, steps)
    state, frozen = training.init_state(variables, labels, optimizer, jax.random.key(member.seed))
    step = training.make_step(loss(lifted), optimizer)
    result = training.train(step, state, frozen, data(member), steps=steps, console=QUIET)
    return result.rows, training.join(result.state.trainable, frozen)
