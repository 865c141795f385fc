"""Which weights a pattern means, and what it says when it means none."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

import lora_jax as lora


def dense(name):
    return {"kernel": jnp.ones((8, 8)), "bias": jnp.zeros(8)}


def decoder(*mlp):
    """Params of a small decoder; `mlp` names the matrices of its perceptron."""
    attention = {name: dense(name) for name in ("q_proj", "k_proj", "v_proj", "o_proj")}
    return {
        "embed": {"embedding": jnp.ones((8, 8))},
        "layers": {"attention": attention, "mlp": {name: dense(name) for name in mlp}},
        "norm": {"scale": jnp.ones(8)},
        "lm_head": {"kernel": jnp.ones((8, 8))},
    }


def apply(params, ids):
    """Uses every matrix once."""
    x = params["embed"]["embedding"][ids]
    for part in params["layers"].values():
        for layer in part.values():
            x = jnp.tanh(x @ layer["kernel"] + layer["bias"])
    return (x * params["norm"]["scale"]) @ params["lm_head"]["kernel"]


PLAIN = decoder("fc1", "fc2")
GATED = decoder("gate_proj", "up_proj", "down_proj")
IDS = jax.ShapeDtypeStruct((3,), jnp.int32)


def lift(targets, params=PLAIN, **keywords):
    return lora.lift(apply, params, IDS, targets=targets, **keywords)


def chosen(targets, params=PLAIN, **keywords):
    """The modules that are adapted, by their last names."""
    sites = lift(targets, params, **keywords).sites
    return {site.path.removesuffix("/kernel").removesuffix("/embedding") for site in sites}


ATTENTION = {f"layers/attention/{name}" for name in ("q_proj", "k_proj", "v_proj", "o_proj")}
Q, V = "layers/attention/q_proj", "layers/attention/v_proj"
FC1, FC2 = "layers/mlp/fc1", "layers/mlp/fc2"

# ---------------------------------------------------------------------------------------------
# Names, suffixes, regular expressions


PATTERNS = {
    "a module's name": (("q_proj",), {Q}),
    "several names": (("q_proj", "v_proj"), {Q, V}),
    "one name, not in a tuple": ("q_proj", {Q}),
    "the end of a path": (("attention/q_proj",), {Q}),
    "with dots as in torch": (("attention.q_proj",), {Q}),
    "the array inside the module": (("q_proj/kernel",), {Q}),
    "a whole path": (("layers/attention/q_proj/kernel",), {Q}),
    "a regular expression over the path": ((r"layers/attention/[qv]_proj/kernel",), {Q, V}),
    "a regular expression over the module": ((r".*/(q|v)_proj",), {Q, V}),
    "overlapping patterns": (("q_proj", r".*_proj"), ATTENTION),
    "a list": (["fc1"], {FC1}),
}


@pytest.mark.parametrize("kind", PATTERNS)
def test_a_pattern_may_be(kind):
    targets, expected = PATTERNS[kind]
    assert chosen(targets) == expected


def test_a_regular_expression_must_match_the_whole_path():
    with pytest.raises(ValueError, match="matches no weight"):
        lift((r"[qv]_proj",))


def test_a_name_matches_whole_names_only():
    """`proj` is no suffix of `q_proj`: a typo must not adapt what was not meant."""
    with pytest.raises(ValueError, match="'proj'"):
        lift(("proj",))


def test_a_name_means_that_module_in_every_layer():
    params = {f"layer_{i}": {"q_proj": dense("q_proj"), "fc1": dense("fc1")} for i in range(3)}

    def unrolled(params, x):
        for layer in params.values():
            x = x @ layer["q_proj"]["kernel"] @ layer["fc1"]["kernel"]
        return x

    lifted = lora.lift(unrolled, params, jnp.ones((2, 8)), targets=("q_proj",))
    assert [site.path for site in lifted.sites] == [f"layer_{i}/q_proj/kernel" for i in range(3)]


def test_lists_in_the_params_are_numbered():
    params = {"layers": [dense(str(i)) for i in range(12)]}

    def unrolled(params, x):
        for layer in params["layers"]:
            x = x @ layer["kernel"]
        return x

    lifted = lora.lift(unrolled, params, jnp.ones((2, 8)), targets=(r"layers/1/kernel",))
    assert [site.path for site in lifted.sites] == ["layers/1/kernel"]
    lifted = lora.lift(unrolled, params, jnp.ones((2, 8)), targets=(r"layers/1.?/kernel",))
    assert [site.path for site in lifted.sites] == [f"layers/{i}/kernel" for i in (1, 10, 11)]


def test_sites_come_in_the_order_of_the_params_whatever_the_order_of_the_targets():
    assert lift(("v_proj", "q_proj")).sites == lift(("q_proj", "v_proj")).sites


# ---------------------------------------------------------------------------------------------
# Roles


def test_fc1_of_a_gated_perceptron_is_gate_and_up():
    assert chosen(("fc1",), GATED) == {"layers/mlp/gate_proj", "layers/mlp/up_proj"}


def test_fc2_of_a_gated_perceptron_is_down():
    assert chosen(("fc2",), GATED) == {"layers/mlp/down_proj"}


def test_a_weight_that_bears_the_name_of_a_role_is_that_weight():
    assert chosen(("fc1", "fc2")) == {FC1, FC2}


@pytest.mark.parametrize("params", [PLAIN, GATED], ids=["plain", "gated"])
@pytest.mark.parametrize(
    "role", ["q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2", "embed", "lm_head"]
)
def test_every_role_is_answered_by_every_family(role, params):
    assert chosen((role,), params)


def test_all_linear_is_every_product_but_the_head_and_no_embedding():
    assert chosen(lora.ALL_LINEAR) == ATTENTION | {FC1, FC2}
    mlp = {f"layers/mlp/{name}" for name in ("gate_proj", "up_proj", "down_proj")}
    assert chosen(lora.ALL_LINEAR, GATED) == ATTENTION | mlp


def test_all_linear_together_with_more_targets():
    assert chosen((lora.ALL_LINEAR, "lm_head", "embed")) == ATTENTION | {
        FC1,
        FC2,
        "lm_head",
        "embed",
    }


def test_all_linear_leaves_out_convolutions_and_tied_embeddings():
    params = {"table": jnp.ones((16, 8)), "conv": jnp.ones((3, 8, 8)), "dense": jnp.ones((8, 8))}

    def model(params, ids):
        x = params["table"][ids] @ params["dense"]
        y = jax.lax.conv_general_dilated(
            x, params["conv"], (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")
        )
        return y @ params["table"].T

    ids = jnp.zeros((2, 5), jnp.int32)
    lifted = lora.lift(model, params, ids, targets=lora.ALL_LINEAR)
    assert [site.path for site in lifted.sites] == ["dense"]


# ---------------------------------------------------------------------------------------------
# Overrides and exclusions


def methods(lifted):
    return {site.path.split("/")[-2]: site.method for site in lifted.sites}


def test_a_mapping_gives_ranks_methods_or_the_default():
    own = lora.LoRA(rank=1, alpha=7.0, rs=True)
    lifted = lift({"q_proj": 4, "v_proj": own, "o_proj": None}, method=lora.LoRA(rank=2, alpha=8.0))
    assert methods(lifted) == {
        "q_proj": lora.LoRA(rank=4, alpha=8.0),
        "v_proj": own,
        "o_proj": lora.LoRA(rank=2, alpha=8.0),
    }
    factors = lifted.init(jax.random.key(0), PLAIN)
    assert factors["layers/attention/q_proj/kernel"]["a"].shape == (8, 4)
    assert factors["layers/attention/v_proj/kernel"]["a"].shape == (8, 1)
    assert factors["layers/attention/o_proj/kernel"]["a"].shape == (8, 2)


def test_the_first_of_several_matching_patterns_decides():
    lifted = lift({"q_proj": 4, r".*_proj": 2})
    assert {name: method.rank for name, method in methods(lifted).items()} == {
        "q_proj": 4,
        "k_proj": 2,
        "v_proj": 2,
        "o_proj": 2,
    }


def test_excluded_weights_are_left_out():
    assert chosen(lora.ALL_LINEAR, exclude=("fc1", "o_proj")) == (
        ATTENTION - {"layers/attention/o_proj"} | {FC2}
    )


def test_an_exclusion_must_match_too():
    with pytest.raises(ValueError, match=r"'o_prj'.*'o_proj'"):
        lift(lora.ALL_LINEAR, exclude=("o_prj",))


def test_excluding_every_target_is_refused():
    with pytest.raises(ValueError, match=r"exclude.*q_proj"):
        lift(("q_proj",), exclude=("q_proj",))


# ---------------------------------------------------------------------------------------------
# Errors


def test_every_pattern_must_match_even_where_others_do():
    with pytest.raises(ValueError, match="'query'"):
        lift(("q_proj", "query"))


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [("q_prj", "q_proj"), ("fc_1", "fc1"), ("attention/v_prj", "v_proj"), ("lmhead", "lm_head")],
)
def test_a_misspelt_name_is_answered_with_the_nearest(wrong, nearest):
    with pytest.raises(ValueError, match=f"{wrong!r}.*nearest.*{nearest}"):
        lift((wrong,))


def test_a_name_near_to_nothing_is_answered_with_what_there_is():
    with pytest.raises(ValueError, match=r"zzz.*embed.*fc1.*q_proj"):
        lift(("zzz",))


def test_a_broken_regular_expression_is_named():
    with pytest.raises(ValueError, match=r"'\(q_proj'.*regular expression"):
        lift(("(q_proj",))


@pytest.mark.parametrize("targets", [(), [], {}], ids=str)
def test_no_targets_are_refused(targets):
    with pytest.raises(ValueError, match="no targets"):
        lift(targets)


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize("targets", [(3,), (None,), (b"q_proj",)], ids=str)
def test_a_target_that_is_no_string_is_refused(targets):
    with pytest.raises(ValueError, match="string"):
        lift(targets)


def test_a_bias_or_a_norm_is_said_to_be_no_matrix():
    with pytest.raises(ValueError, match="norm/scale"):
        lift(("norm/scale",))
