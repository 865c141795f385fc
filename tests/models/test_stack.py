"""What the backward pass keeps changes no number, in a lifted decoder too."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.case import QUICK, error

import lora_jax as lora
from lora_jax.models.stack import REMAT_POLICIES

FIXTURES = Path(__file__).parent.parent / "fixtures"
IDS = np.random.default_rng(0).integers(5, 40, (2, 12)).astype(np.int32)


def gradient(remat, scan, dtype="float32"):
    """Of the factors of a lifted decoder, as a jitted function and its arguments."""
    model = lora.hub.load_model(FIXTURES / "llama", remat=remat, scan=scan, dtype=dtype)
    lifted = lora.lift(model.apply, model.params, IDS, targets=lora.ALL_LINEAR, strict=True)
    factors = lifted.init(jax.random.key(0), model.params)
    factors = jax.tree.map(lambda x: x + 0.1, factors)
    loss = lambda factors, params: jnp.square(lifted(params, factors, IDS)).mean()
    return jax.jit(jax.grad(loss), compiler_options=QUICK), (factors, model.params)


def values(remat, scan):
    run, arguments = gradient(remat, scan)
    return jax.tree.leaves(run(*arguments))


@pytest.mark.parametrize("scan", [True, False])
def test_every_policy_gives_the_same_gradient(scan):
    wanted = values("none", scan)
    for remat in sorted(set(REMAT_POLICIES) - {"none"}):
        for x, y in zip(values(remat, scan), wanted, strict=True):
            assert error(np.asarray(x), np.asarray(y)) < 1e-5


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_products_that_are_kept_are_not_computed_again(dtype):
    """The policies see the products of bfloat16, too, which have a derivative of their own."""

    def products(remat):
        run, arguments = gradient(remat, True, dtype)
        return run.lower(*arguments).as_text().count("stablehlo.dot_general")

    assert products("none") == products("dots") < products("dots_no_batch") < products("full")
