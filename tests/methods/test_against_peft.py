"""Every method against PEFT: logits, gradients, 100 steps of AdamW, merged weights, the start.

Recorded by scripts/record_peft.py; where torch and PEFT are installed, recorded anew and compared.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lora_jax as lora
from tests.golden import peft_methods as golden
from tests.golden.case import QUICK, error

CASES = golden.CASES
every_case = pytest.mark.parametrize("name", CASES)


def array_at(tree, path):
    for part in path.split("/"):
        tree = tree[part]
    return np.asarray(tree)


def lift(case):
    base = lora.hub.load_model(golden.FIXTURES / case.model)
    ids, mask = golden.inputs(case.model)
    targets = case.method if isinstance(case.method, Mapping) else dict.fromkeys(case.targets)
    method = None if isinstance(case.method, Mapping) else case.method
    arguments = (base.params, ids, mask)
    return base, lora.lift(base.apply, *arguments, method=method, targets=targets, strict=True)


def next_token_loss(logits, ids, mask):
    log_probabilities = jax.nn.log_softmax(logits[:, :-1])
    of_next = jnp.take_along_axis(log_probabilities, ids[:, 1:, None], axis=-1)[..., 0]
    return -(of_next * mask[:, 1:]).sum() / mask[:, 1:].sum()


def split(lifted, factors):
    """What trains, and what the method fixes."""
    fixed = {path: set() for path in factors}
    for site in lifted.sites:
        fixed[site.path] = set(site.frozen)
    part = lambda wanted: {
        path: {n: x for n, x in arrays.items() if (n in fixed[path]) == wanted}
        for path, arrays in factors.items()
    }
    return part(False), part(True)


def make_step(case, base, lifted, optimizer):
    ids, mask = golden.inputs(case.model)

    def loss(trained, fixed):
        factors = {path: {**trained[path], **fixed[path]} for path in trained}
        logits = lifted(base.params, factors, ids, mask)
        return next_token_loss(logits, ids, mask), logits

    def step(trained, fixed, state):
        gradients, logits = jax.grad(loss, has_aux=True)(trained, fixed)
        updates, state = optimizer.update(gradients, state, trained)
        return optax.apply_updates(trained, updates), state, gradients, logits

    return jax.jit(step, compiler_options=QUICK)


def wanted_at(case, base, stage, recorded, shapes):
    """PEFT's arrays in our names; where PEFT trains W itself, less W."""
    wanted = golden.to_ours(case, stage, recorded, shapes)
    for path, arrays in wanted.items() if stage != "gradient" else ():
        if isinstance(golden.method_of(case, path), lora.Full):
            arrays["d"] = arrays["d"] - array_at(base.params, path)
        if "rows" in arrays:
            arrays["rows"] = arrays["rows"] - array_at(base.params, path)[[7, 11, 30]]
    return jax.tree.map(jnp.asarray, wanted)


def distance(found, wanted, floor=0.0):
    """The largest relative error of an array, beyond a floor for those that are rounding alone."""
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True)
    norm = lambda x: np.linalg.norm(np.asarray(x, np.float64))
    return max(norm(np.asarray(f) - w) / (norm(w) + floor) for f, w in pairs)


@every_case
def test_it_computes_and_learns_what_peft_does(name):
    case, recorded = CASES[name], golden.read(name)
    base, lifted = lift(case)
    start = lifted.init(jax.random.key(0), base.params)
    factors = wanted_at(case, base, "start", recorded, start)
    assert jax.tree.map(jnp.shape, factors) == jax.tree.map(jnp.shape, start)

    optimizer = optax.adamw(
        golden.LEARNING_RATE, weight_decay=golden.decay(case), eps=golden.EPSILON
    )
    step = make_step(case, base, lifted, optimizer)
    trained, fixed = split(lifted, factors)
    state = optimizer.init(trained)
    _, _, _, logits = step(*split(lifted, start), state)
    real = golden.inputs(case.model)[1] > 0
    plain = np.load(golden.FIXTURES / case.model / "expected.npz")["expected"]
    assert error(logits[real], plain[real]) < 1e-5  # at its own start the model is the base
    assert recorded["identity"] < 1e-4  # and so is PEFT's

    for done in range(1, golden.STEPS[-1] + 1):
        trained, state, gradients, logits = step(trained, fixed, state)
        if done == 1:
            assert error(logits[real], recorded["logits"][real]) < 1e-5
            expected = wanted_at(case, base, "gradient", recorded, start)
            assert distance(gradients, expected, floor=1e-4) < 1e-4
        if done in golden.STEPS:
            expected = wanted_at(case, base, f"after {done}", recorded, start)
            assert distance(trained, expected) < 1e-4, done


@every_case
def test_its_merged_weights_are_those_of_peft(name):
    case, recorded = CASES[name], golden.read(name)
    base, lifted = lift(case)
    start = jax.eval_shape(lambda: lifted.init(jax.random.key(0), base.params))
    factors = wanted_at(case, base, "start", recorded, start)
    merged = lifted.merge(base.params, factors)
    targets = dict(case.targets)
    for site in lifted.sites:
        if site.bias is not None:
            targets[site.bias.path] = case.targets[site.path]
    for path, module in targets.items():
        found = array_at(merged, path)
        wanted = golden.merged_to_ours(path, module, recorded, found)
        assert np.abs(found - wanted).max() < 1e-6 * np.abs(wanted).max(), path


@pytest.mark.torch
@pytest.mark.filterwarnings("default")  # PEFT and transformers warn of each other
@every_case
def test_what_was_recorded_is_what_peft_computes(name):
    recorded, now = golden.read(name), golden.record(CASES[name])
    assert set(now) == set(recorded)
    for key, array in now.items():
        np.testing.assert_allclose(array, recorded[key], rtol=1e-3, atol=1e-5, err_msg=key)
