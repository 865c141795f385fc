"""A run on a mesh: everything in its place, and the numbers of one device."""

from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

import lora_jax as lora
from lora_jax import hub, training
from lora_jax.training.classifier import init_variables, loss, make_outputs

FIXTURES = Path(__file__).parent.parent / "fixtures"
STEPS, ROWS, LENGTH = 20, 8, 10
MESHES = {
    "data": {"data": 8},
    "fsdp": {"data": 1, "fsdp": 8},
    "tensor": {"data": 1, "tensor": 8},
    "mixed": {"data": 2, "fsdp": 2, "tensor": 2},
}


def batches():
    rng = np.random.default_rng(0)
    for _ in range(STEPS):
        ids = rng.integers(5, 40, (ROWS, LENGTH)).astype(np.int32)
        mask = (np.arange(LENGTH) < rng.integers(3, LENGTH + 1, (ROWS, 1))).astype(np.int32)
        yield {"ids": ids * mask, "mask": mask, "type_ids": 0 * mask, "label": ids[:, 0] % 3}


def lift(base, method=None, targets=("q_proj", "o_proj", "fc2")):
    ids = jax.ShapeDtypeStruct((ROWS, LENGTH), "int32")
    method = method or lora.LoRA(rank=4)
    return lora.lift(base.apply, base.params, ids, ids, ids, method=method, targets=targets)


def train(config, devices, steps=STEPS, **options):
    """The losses of a run on a mesh, its last state and the shardings of the variables."""
    mesh = training.make_mesh(config, jax.devices()[:devices])
    base = hub.load_model(FIXTURES / "bert", mesh=mesh, **options)
    lifted = lift(base)
    key = jax.random.key(0)
    init = lambda base, key: init_variables(base, lifted, 3, key)
    variables = training.place(mesh, base, init, key, lifted.sites)
    labels = training.label(variables, training.LORA)
    optimizer = training.make_optimizer({"learning_rate": 1e-2, "warmup": 2}, labels, STEPS)
    state, frozen, shardings = training.place_state(mesh, variables, labels, optimizer, key)
    outputs = make_outputs(base, lifted, "mean")
    step, losses = training.make_step(partial(loss, outputs), optimizer, shardings), []
    for _, batch in zip(range(steps), batches(), strict=False):
        state, metrics = step(state, frozen, training.place_batch(batch, shardings.batch))
        losses.append(float(metrics["loss"]))
    return losses, state, training.join(state.trainable, frozen)


@pytest.fixture(scope="module")
def alone():
    losses, _, _ = train(None, 1)
    assert losses[-1] < losses[0]
    return losses


@pytest.mark.parametrize(
    ("mesh", "options"),
    [*((mesh, {}) for mesh in MESHES), ("mixed", {"remat": "full"}), ("mixed", {"scan": False})],
    ids=str,
)
def test_losses_are_those_of_one_device(mesh, options, alone):
    losses, _, _ = train(MESHES[mesh], 8, **options)
    np.testing.assert_allclose(losses, alone, rtol=1e-5)
