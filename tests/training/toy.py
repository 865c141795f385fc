"""A small run, for tests and for processes to be killed: LoRA by hand beside one frozen matrix.

python -m tests.training.toy WORKDIR STEPS    trains (or resumes), then writes WORKDIR/final.npz
"""

import dataclasses
import sys
import time
from pathlib import Path

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


def identity(rank=2, base="abc"):
    return training.describe_run(base=base, method=LoRA(rank=rank), targets=["layer/kernel"])


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


class Slowly:
    """The data, slowed down to give the killer time to strike."""

    def __init__(self):
        self._iterator = data()
        self.get_state, self.set_state = self._iterator.get_state, self._iterator.set_state

    def __next__(self):
        time.sleep(0.01)
        return next(self._iterator)


def main(workdir, steps):
    result = run(int(steps), Path(workdir), data_iterator=Slowly())
    np.savez(Path(workdir) / "final.npz", **arrays(result.state))


if __name__ == "__main__":
    main(*sys.argv[1:])
