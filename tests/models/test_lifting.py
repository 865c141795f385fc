"""Every family can be adapted: each of its linear weights, in factored form, scanned or not."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest
from golden.all import CASES
from golden.case import QUICK, error

import lora_jax as lora
from lora_jax import hub
from lora_jax.lifting import path_name

FIXTURES = Path(__file__).parent.parent / "fixtures"

# Of each architecture one case; heads and switches do not change how weights are used.
FAMILIES = [
    name
    for name in CASES
    if "_" not in name or name.startswith(("gemma", "qwen")) or name == "vit_classification"
]


def lifted_model(name, **options):
    """A recorded model with its inputs, lifted over every linear weight but the head."""
    case = CASES[name]
    model = hub.load_model(FIXTURES / name, **(case.options | options))
    expected = dict(np.load(FIXTURES / name / "expected.npz"))
    args = [expected[key] for key in case.arguments]
    named = case.keywords(model.config, expected)
    lifted = lora.lift(
        model.apply,
        model.params,
        *args,
        method=lora.LoRA(2),
        targets=lora.ALL_LINEAR,
        strict=True,
        **named,
    )
    return model, lifted, args, named


def unreached(model, lifted):
    """Linear weights, but for those of a head, that the adapter does not reach."""
    paths = [path_name(path) for path, _ in jax.tree.leaves_with_path(model.params)]
    head = re.compile(r"head/|(.*/)?lm_head/")
    kernels = {path for path in paths if path.endswith("kernel") and not head.match(path)}
    return kernels - {site.path for site in lifted.sites}


@pytest.mark.parametrize("name", FAMILIES)
def test_every_linear_weight_of_an_unrolled_model_is_reached_in_factored_form(name):
    model, lifted, *_ = lifted_model(name, scan=False)
    assert not unreached(model, lifted)


@pytest.mark.parametrize("name", FAMILIES)
def test_so_is_that_of_a_scanned_one_which_is_then_the_model_with_merged_weights(name):
    model, lifted, args, named = lifted_model(name, scan=True)
    assert not unreached(model, lifted)
    factors = lifted.init(jax.random.key(0), model.params)
    factors = jax.tree.map(lambda x: x + 0.05, factors)

    def both(params, factors):
        merged = lifted.merge(params, factors)
        return lifted(params, factors, *args, **named), model.apply(merged, *args, **named)

    found, wanted = jax.jit(both, compiler_options=QUICK)(model.params, factors)
    assert error(found, np.asarray(wanted)) < 1e-5
    assert error(found, np.load(FIXTURES / name / "expected.npz")["expected"]) > 1e-3
