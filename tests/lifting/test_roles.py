"""One abstract trace tells which axes of a weight are inputs, outputs, or shared with the data."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from jax import lax

import lora_jax as lora
from tests.lifting import checks
from tests.lifting.cases.all import ALL

# (batch, ins, outs) of every adapted weight.
ROLES = {
    "linen_dense": {"kernel": ((), (0,), (1,))},
    "linen_dense_general": {
        "DenseGeneral_0/kernel": ((), (0,), (1, 2)),
        "DenseGeneral_1/kernel": ((), (0, 1), (2,)),
    },
    "linen_dense_general_with_batch_axes": {"kernel": ((0,), (1,), (2,))},
    "linen_conv_2d_strided": {"kernel": ((), (0, 1, 2), (3,))},
    "linen_tied_embedding": {
        "Dense_0/kernel": ((), (0,), (1,)),
        "Embed_0/embedding": ((), (0,), (1,)),
    },
    "nnx_scan": {"layers/linear/kernel": ((0,), (1,), (2,))},
    "equinox_mlp": {f"layers/{i}/weight": ((), (1,), (0,)) for i in range(3)},
    "plain_einsums": {
        "o": ((), (0, 1), (2,)),
        "q": ((), (0,), (1, 2)),
        "s": ((), (1,), (0, 2, 3)),
    },
    "reshaped_transposed_scaled_and_sliced": {"w": ((), (0,), (1,))},
    "weight_on_the_left_of_the_product": {"w": ((), (0,), (1,))},
    "ensemble_of_weights_by_vmap": {"w": ((), (1,), (0, 2))},
    "fused_qkv_that_is_split": {"qkv": ((), (0,), (1,))},
    "weights_that_are_concatenated": {"k": ((), (0,), (1,)), "q": ((), (0,), (1,))},
    "looked_up_by_one_hot": {"table": ((), (0,), (1,))},
    "experts_dense": {
        "down": ((0,), (1,), (2,)),
        "gate": ((), (0,), (1,)),
        "up": ((), (1,), (0, 2)),
    },
    "experts_dispatched": {"w": ((0,), (1,), (2,))},
    "experts_ragged": {"w": ((0,), (1,), (2,))},
    "experts_indexed_under_vmap": {"w": ((0,), (1,), (2,))},
    "equinox_mapped_embedding": {
        "embed/weight": ((), (0,), (1,)),
        "linear/weight": ((), (1,), (0,)),
    },
    "experts_gathered": {"w": ((0,), (1,), (2,))},
    "stacked_layers_indexed_in_python": {"w": ((0,), (1,), (2,))},
    "stacked_layers_indexed_in_a_fori_loop": {"w": ((0,), (1,), (2,))},
    "scan_over_layers_and_over_time": {"w": ((0,), (1,), (2,))},
    "params_in_a_while_carry": {"w": ((), (0,), (1,))},
    "depthwise_convolution": {"kernel": ((), (0, 1), (2,))},
    "penalty_on_a_weight": {"w": ((), (0,), (1,))},
}


@pytest.mark.filterwarnings("ignore:.*dense W")
@pytest.mark.parametrize("name", ROLES)
def test_the_axes_of_every_weight_have_the_roles_of_its_use(name):
    sites = checks.lift(ALL[name]()).sites
    assert {site.path: (site.batch, site.ins, site.outs) for site in sites} == ROLES[name]


@pytest.mark.filterwarnings("ignore:.*dense W")
@pytest.mark.parametrize("name", ALL)
def test_every_axis_has_one_role_and_factors_have_the_axes_of_their_sides(name):
    case = ALL[name]()
    lifted = checks.lift(case)
    factors = lifted.init(jax.random.key(0), case.params)
    for site in lifted.sites:
        assert sorted((*site.batch, *site.ins, *site.outs)) == list(range(len(site.shape)))
        assert site.ins
        assert site.outs
        batch, ins, outs = (
            tuple(site.shape[i] for i in axes) for axes in (site.batch, site.ins, site.outs)
        )
        assert factors[site.path]["a"].shape == (*batch, *ins, 2)
        assert factors[site.path]["b"].shape == (*batch, 2, *outs)


def test_a_batch_of_one_and_a_batch_of_many_find_the_same_roles():
    params = {"w": jnp.ones((8, 1, 6))}

    def model(params, x):
        return jnp.einsum("bd,dhk->bhk", x, params["w"])

    for batch in (1, 5):
        (site,) = lora.lift(
            model, params, jnp.ones((batch, 8)), targets=("w",), method=lora.LoRA(rank=2)
        ).sites
        assert (site.batch, site.ins, site.outs) == ((), (0,), (1, 2))


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("way", ["indexed", "sliced", "scanned"])
def test_the_axis_of_a_stack_is_a_batch_axis_even_if_it_holds_one_layer(layers, way):
    params = {"w": jnp.ones((layers, 8, 8)), "table": jnp.ones((layers, 5, 8))}

    def layer(x, own):
        return jnp.tanh(x @ own["w"]) + own["table"][jnp.array([3, 1])], None

    def model(params, x):
        if way == "scanned":
            return lax.scan(layer, x, params)[0]
        pick = {
            "indexed": lambda p, i: p[i],
            "sliced": lambda p, i: lax.index_in_dim(p, i, keepdims=False),
        }[way]
        for i in range(layers):
            x, _ = layer(x, jax.tree.map(lambda p, i=i: pick(p, i), params))
        return x

    targets = ("w", "table")
    sites = lora.lift(model, params, jnp.ones((2, 8)), targets=targets, method=lora.LoRA(2)).sites
    assert [(s.batch, s.ins, s.outs) for s in sites] == [((0,), (1,), (2,))] * 2


def test_uses_are_told_in_the_order_of_the_program():
    lifted = checks.lift(ALL["linen_tied_embedding"]())
    uses = {site.path: site.uses for site in lifted.sites}
    assert uses == {
        "Dense_0/kernel": ("dot_general",),
        "Embed_0/embedding": ("gather", "dot_general"),
    }


def test_printing_shows_every_site_with_its_shape_roles_and_parameters():
    text = str(checks.lift(ALL["experts_dense"]()))
    (line,) = (line for line in text.splitlines() if line.startswith("down"))
    for shown in ("3x6x8", "3 / 6 / 8", "LoRA(rank=2, alpha=3)", "84", "dot_general"):
        assert shown in line
    assert "3 weights adapted" in text.splitlines()[-1]


def test_printing_shows_where_a_weight_is_made_dense():
    with pytest.warns(UserWarning, match="dense W"):
        lifted = checks.lift(ALL["penalty_on_a_weight"]())
    assert "integer_pow" in str(lifted)


def test_lifting_traces_without_computing():
    """A model that would run for ever if it were run."""

    def model(params, x):
        return lax.while_loop(lambda x: True, lambda x: x @ params["w"], x)

    params = {"w": jnp.ones((8, 8))}
    lifted = lora.lift(model, params, jnp.ones((2, 8)), targets=("w",), method=lora.LoRA(rank=2))
    assert lifted.sites[0].ins == (0,)
