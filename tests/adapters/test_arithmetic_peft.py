"""Arithmetic on adapters against PEFT's, as recorded and, where PEFT is installed, live."""

import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from adapters.peft_arithmetic import ADAPTERS, BASE, CASES, FACTORS, INS, LAYERS, RECORDED, compute
from adapters.quick import combine, quick

import lora_jax as lora
from lora_jax.adapters import pruning

PARAMS = {"w": jnp.asarray(BASE)}
X = jnp.ones((1, INS))


def each_layer(params, x):
    return jax.lax.map(lambda w: x @ w, params["w"])


def adapter(name):
    rank, alpha, _ = ADAPTERS[name]
    lifted = lora.lift(each_layer, PARAMS, X, method=lora.LoRA(rank, alpha), targets="w")
    return lifted, {"w": jax.tree.map(jnp.asarray, FACTORS[name])}


@pytest.fixture(scope="module", params=["recorded", pytest.param("live", marks=pytest.mark.torch)])
def theirs(request):
    if request.param == "recorded":
        return dict(np.load(RECORDED))
    pytest.importorskip("peft", reason="peft is not installed: no live comparison")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's own
        return compute()


def close(found, wanted, tolerance=1e-5):
    assert found.shape == wanted.shape
    assert np.linalg.norm(found - wanted) <= tolerance * np.linalg.norm(wanted)


@pytest.mark.parametrize("case", CASES)
def test_a_combination_is_that_of_peft(theirs, case):
    names, options = CASES[case]
    kind = case.removesuffix("_4").removesuffix("_frequency")
    weights = [ADAPTERS[name][2] for name in names]
    lifted, factors = combine([adapter(name) for name in names], weights, kind, **options)
    a, b = factors["w"]["a"], factors["w"]["b"]
    assert lifted.sites[0].method.scale == 1.0
    close(a @ b, theirs[f"{case}:a"] @ theirs[f"{case}:b"])
    if "svd" not in case:  # there signs are free
        close(a, theirs[f"{case}:a"])
        close(b, theirs[f"{case}:b"])


def test_smaller_intruders_leave_the_change_that_peft_leaves(theirs):
    lifted, factors = adapter("first")
    reduce = partial(lora.reduce_intruders, lifted, top=3, threshold=0.8)
    reduced = quick(reduce, PARAMS, factors)
    a, b = reduced.factors["w"]["a"], reduced.factors["w"]["b"]
    assert (reduced.intruders["w"] > 0).all()
    close(a @ b, theirs["reduced:a"] @ theirs["reduced:b"], 1e-4)


@pytest.mark.parametrize("size", [2, 0.8, 0.95])
def test_a_conversion_is_that_of_peft(theirs, size):
    given = {"rank": size} if isinstance(size, int) else {"energy": size}
    lifted, factors = lora.to_lora(*adapter("first"), **given)
    ranks = [theirs[f"converted_{size}:{layer}:a"].shape[1] for layer in range(LAYERS)]
    assert lifted.sites[0].method.rank == max(ranks)
    for layer, rank in enumerate(ranks):
        key = f"converted_{size}:{layer}"
        a, b = factors["w"]["a"][layer], factors["w"]["b"][layer]
        close(a[:, :rank] @ b[:rank], theirs[f"{key}:a"] @ theirs[f"{key}:b"])


@pytest.mark.torch
@pytest.mark.parametrize("kind", ["dare_linear", "dare_ties"])
@pytest.mark.parametrize("majority", ["total", "frequency"])
def test_dare_with_the_same_masks_is_that_of_peft(kind, majority, monkeypatch):
    torch = pytest.importorskip("torch")
    merge_utils = pytest.importorskip("peft.utils.merge_utils")
    tasks = jnp.asarray(np.random.default_rng(0).normal(size=(3, 6, 5)), jnp.float32)
    weights, density = jnp.array([0.5, -1.5, 2.0]), 0.6
    kept = pruning.keep_random(jax.random.key(0), tasks, density)
    if kind == "dare_ties":
        ours = pruning.agreed_mean(kept, weights, majority)
    else:
        ours = pruning.weighted_sum(kept, weights)
    masks = iter(np.asarray(kept != 0, np.float32))
    monkeypatch.setattr(torch, "bernoulli", lambda *_, **__: torch.tensor(next(masks)))
    given = [torch.tensor(np.asarray(task)) for task in tasks], torch.tensor(np.asarray(weights))
    more = (majority,) if kind == "dare_ties" else ()
    close(ours, getattr(merge_utils, kind)(*given, density, *more).numpy())
