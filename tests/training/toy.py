"""A small run, for tests: LoRA by hand beside one frozen matrix."""

import dataclasses

import grain
import jax
import jax.numpy as jnp
import numpy as np

from lora_jax import training

INS, OUTS = 5, 3


@dataclasses.dataclass(frozen=True)
class LoRA:
    """Stands for a method in the description of a run."""

    rank: int = 2
    alpha: float = 4.0


def variables(rank=2):
    w, a = jax.random.split(jax.random.key(1))
    return {
        "params": {"layer": {"kernel": jax.random.normal(w, (INS, OUTS)), "bias": jnp.ones(OUTS)}},
        "adapter": {
            "layer/kernel": {
                "a": jax.random.normal(a, (INS, rank)) / INS**0.5,
                "b": jnp.zeros((rank, OUTS)),
            }
        },
        "head": {"scale": jnp.ones(OUTS)},
    }


def loss_fn(variables, batch, key):
    """Squared error, with dropout on LoRA's input so that the random key matters."""
    layer, factors = variables["params"]["layer"], variables["adapter"]["layer/kernel"]
    x = batch["x"]
    kept = x * jax.random.bernoulli(key, 0.8, x.shape) / 0.8
    y = x @ layer["kernel"] + kept @ factors["a"] @ factors["b"] * 2.0 + layer["bias"]
    error = y * variables["head"]["scale"] - batch["y"]
    return jnp.mean(error**2), {"worst": jnp.max(jnp.abs(error))}


def data(batch_size=4, seed=0):
    rng = np.random.default_rng(7)
    x = rng.normal(size=(50, INS)).astype(np.float32)
    y = (x @ rng.normal(size=(INS, OUTS))).astype(np.float32)
    rows = grain.MapDataset.source([{"x": x[i], "y": y[i]} for i in range(len(x))])
    return iter(rows.shuffle(seed=seed).repeat().batch(batch_size).to_iter_dataset())


def build(steps, rules=training.LORA, rank=2, loss=loss_fn, **optimizer):
    """Returns the step, the first state and the frozen tree of a run."""
    tree = variables(rank)
    labels = training.label(tree, rules)
    optimiser = training.make_optimizer({"learning_rate": 0.05, **optimizer}, labels, steps)
    state, frozen = training.init_state(tree, labels, optimiser, jax.random.key(3))
    return training.make_step(loss, optimiser), state, frozen


def identity(rank=2, alpha=4.0, base="abc"):
    method = LoRA(rank=rank, alpha=alpha)
    return training.describe_run(base=base, method=method, targets=["layer/kernel"])


def run(steps, workdir=None, *, data_iterator=None, **options):
    """Trains from the start, or from the newest checkpoint of `workdir`."""
    step, state, frozen = build(steps)
    options = {"identity": identity(), "checkpoint_every": 3, **options}
    iterator = data_iterator or data()
    return training.train(step, state, frozen, iterator, steps=steps, workdir=workdir, **options)


def arrays(state):
    """Returns every array of a state by its path, the random key as numbers."""
    state = state._replace(key=jax.random.key_data(state.key))
    return {jax.tree_util.keystr(k): np.asarray(x) for k, x in jax.tree.leaves_with_path(state)}
