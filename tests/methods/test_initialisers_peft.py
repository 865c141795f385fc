"""Initialisers against PEFT's, as recorded and, where PEFT is installed, live."""

import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.case import QUICK
from methods.peft_initialisers import (
    ALPHA,
    EVA_MODULES,
    EVA_RANK,
    FIXTURES,
    LORA_GA,
    MODULES,
    PROBE,
    RANK,
    RECORDED,
    TEXTS,
    compute,
)

import lora_jax as lora
from lora_jax import hub
from lora_jax.methods.initialisers import ranks_by_variance
from lora_jax.methods.initialisers.matrices import subspace_svd

SCALE = ALPHA / RANK
MODEL = hub.load_model(Path(FIXTURES) / "llama")
BATCHES = [(TEXTS[:1].astype(np.int32),), (TEXTS[1:].astype(np.int32),)]


@pytest.fixture(scope="module", params=["recorded", pytest.param("live", marks=pytest.mark.torch)])
def theirs(request):
    if request.param == "recorded":
        return dict(np.load(RECORDED))
    pytest.importorskip("peft", reason="peft is not installed: no live comparison")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's own
        return compute()


def lift(method, targets=MODULES):
    return lora.lift(MODEL.apply, MODEL.params, *BATCHES[0], method=method, targets=targets)


LIFTED = lift(lora.LoRA(RANK, ALPHA))


@pytest.fixture(scope="module")
def normalised_inputs():
    return lora.gather_inputs(LIFTED, MODEL.params, BATCHES, normalise=True)


@pytest.fixture(scope="module")
def gradients():
    def loss(params, ids):
        scores = jax.nn.log_softmax(MODEL.apply(params, ids)[:, :-1])
        return -jnp.take_along_axis(scores, ids[:, 1:, None], axis=-1).mean()

    return lora.gather_gradients(LIFTED, MODEL.params, BATCHES, loss)


def start(method, gathered=None, targets=MODULES):
    init = jax.jit(lift(method, targets).init, compiler_options=QUICK)
    return init(jax.random.key(0), MODEL.params, gathered)


def pairs(ours, theirs, case):
    """Of each layer and module our A and B and PEFT's, in PEFT's layout."""
    for module in MODULES:
        arrays = ours[f"layers/{module}/kernel"]
        for layer in range(2):
            key = f"{case}:{layer}:{module}"
            a, b = np.asarray(arrays["a"][layer]).T, np.asarray(arrays["b"][layer]).T
            yield (a, b), (theirs[f"{key}:A"], theirs[f"{key}:B"])


def close(found, wanted, tolerance):
    assert found.shape == wanted.shape
    assert np.linalg.norm(found - wanted) <= tolerance * np.linalg.norm(wanted)


def assert_same_up_to_signs(ours, theirs, case, tolerance, apart=False):
    """Component by component; one sign for A and B both, unless they are free apart."""
    for (a, b), (their_a, their_b) in pairs(ours, theirs, case):
        sign_a = np.sign((a * their_a).sum(axis=1))
        sign_b = np.sign((b * their_b).sum(axis=0))
        if not apart:
            close(b @ a, their_b @ their_a, tolerance)
        close(a * sign_a[:, None], their_a, tolerance)
        close(b * sign_b, their_b, tolerance)


def assert_base_is_what_is_left(ours, theirs, case):
    arrays = ours["layers/q_proj/kernel"]
    base = MODEL.params["layers"]["q_proj"]["kernel"][0]
    left = base - SCALE * arrays["a0"][0] @ arrays["b0"][0]
    np.testing.assert_allclose(left.T, theirs[f"{case}:0:q_proj:base"], atol=1e-4)


@pytest.mark.parametrize("case", ["pissa", "olora"])
def test_starts_from_the_weight_alone_are_those_of_peft(theirs, case):
    ours = start({"pissa": lora.PiSSA, "olora": lora.OLoRA}[case](RANK, ALPHA))
    assert_same_up_to_signs(ours, theirs, case, 1e-4)
    assert_base_is_what_is_left(ours, theirs, case)


def test_a_randomised_decomposition_is_that_of_peft_from_the_same_random_columns(theirs):
    ours = {}
    for module in MODULES:
        matrix = MODEL.params["layers"][module]["kernel"]
        u, s, vt = subspace_svd(matrix, jnp.broadcast_to(PROBE, (2, *PROBE.shape)), 2)
        root = jnp.sqrt(s / SCALE)
        a, b = u * root[:, None, :], root[..., None] * vt
        ours[f"layers/{module}/kernel"] = {"a": a, "b": b}
    assert_same_up_to_signs(ours, theirs, "pissa_niter_2", 1e-4)


@pytest.mark.parametrize("mode", ["ipm", "kpm"])
def test_corda_starts_as_in_peft(theirs, normalised_inputs, mode):
    ours = start(lora.CorDA(RANK, ALPHA, mode=mode), normalised_inputs)
    assert_same_up_to_signs(ours, theirs, f"corda_{mode}", 2e-3)
    if mode == "ipm":
        assert_base_is_what_is_left(ours, theirs, "corda_ipm")


@pytest.mark.parametrize(("direction", "scaling"), LORA_GA)
def test_lora_ga_starts_as_in_peft(theirs, gradients, direction, scaling):
    method = lora.LoRAGA(RANK, ALPHA, direction=direction, scaling=scaling)
    ours = start(method, gradients)
    # A and B take different triples, each with a sign of its own.
    assert_same_up_to_signs(ours, theirs, f"{direction}_{scaling}", 1e-3, apart=True)


def test_eva_shares_out_ranks_and_starts_at_components_as_in_peft(theirs):
    method = lora.EVA(EVA_RANK, ALPHA)
    lifted = lift(method, EVA_MODULES)
    inputs = lora.gather_inputs(lifted, MODEL.params, BATCHES)
    ranks = ranks_by_variance(lifted, inputs)
    found = {
        (f"{layer}:{path.split('/')[1]}"): rank
        for path, layers in ranks.items()
        for layer, rank in enumerate(layers)
    }
    wanted = {key: theirs[f"eva:{key}:A"].shape[0] for key in found}
    assert found == wanted
    assert len(set(found.values())) > 1
    ours = start(method, inputs, EVA_MODULES)
    for key in found:
        layer, module = key.split(":")
        a = np.asarray(ours[f"layers/{module}/kernel"]["a"][int(layer)]).T
        their_a = theirs[f"eva:{key}:A"][: len(a)]
        a = a[: len(their_a)]
        close(a * np.sign((a * their_a).sum(axis=1))[:, None], their_a, 1e-2)
    assert not any(arrays["b"].any() for arrays in ours.values())
