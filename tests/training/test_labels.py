import jax
import jax.numpy as jnp
import pytest

from lora_jax.training import FROZEN, FULL, HEAD_ONLY, LORA, join, label, split, summary

VARIABLES = {
    "params": {"layers": {"q_proj": {"kernel": jnp.ones((4, 4)), "bias": jnp.ones(4)}}},
    "adapter": {"layers/q_proj/kernel": {"a": jnp.ones((4, 2)), "b": jnp.zeros((2, 4))}},
    "head": {"kernel": jnp.ones((4, 3))},
}


def test_the_presets_train_what_they_say():
    assert summary(VARIABLES, label(VARIABLES, LORA)) == {"frozen": 20, "adapter": 16, "head": 12}
    assert summary(VARIABLES, label(VARIABLES, HEAD_ONLY)) == {"frozen": 36, "head": 12}
    plain = {"params": VARIABLES["params"], "head": VARIABLES["head"]}
    assert summary(plain, label(plain, FULL)) == {"params": 20, "head": 12}


def test_the_first_rule_that_matches_wins():
    rules = [(r".*/bias", "bias"), (r"params/.*", None), (r".*/b", "b"), (r".*", "rest")]
    labels = label(VARIABLES, rules)
    assert labels["params"]["layers"]["q_proj"] == {"kernel": FROZEN, "bias": "bias"}
    assert labels["adapter"]["layers/q_proj/kernel"] == {"a": "rest", "b": "b"}
    assert labels["head"]["kernel"] == "rest"


def test_a_rule_matches_whole_paths_only():
    with pytest.raises(ValueError, match="no rule matches 'params/layers/q_proj/bias'"):
        label({"params": VARIABLES["params"]}, [(r"params/layers/q_proj/kernel", "x"), ("p", "y")])


def test_a_rule_that_matches_nothing_is_an_error_with_the_nearest_paths():
    with pytest.raises(ValueError, match=r"k_porj.*nearest paths: params/layers/q_proj/kernel"):
        label(VARIABLES, [("params/layers/k_porj/kernel", "x"), (".*", None)])


def test_a_label_that_an_earlier_rule_always_takes_is_an_error():
    with pytest.raises(ValueError, match=r"'head/.\*', 'head'\) never wins.*'\.\*'"):
        label(VARIABLES, [(".*", None), ("head/.*", "head")])


def test_freezing_the_rest_is_fine_when_there_is_no_rest():
    labels = label({"head": VARIABLES["head"]}, [("head/.*", "head"), (".*", None)])
    assert jax.tree.leaves(labels) == ["head"]


def test_labels_need_no_arrays():
    abstract = jax.eval_shape(lambda: VARIABLES)
    assert label(abstract, LORA) == label(VARIABLES, LORA)


def test_split_and_join_are_inverse_and_share_no_array():
    trainable, frozen = split(VARIABLES, label(VARIABLES, LORA))
    assert len(jax.tree.leaves(trainable)) + len(jax.tree.leaves(frozen)) == 5
    joined = join(trainable, frozen)
    assert jax.tree.structure(joined) == jax.tree.structure(VARIABLES)
    assert all(
        x is y for x, y in zip(jax.tree.leaves(joined), jax.tree.leaves(VARIABLES), strict=True)
    )


def test_trees_with_empty_places_split_and_join():
    tree = {"params": {"kernel": jnp.ones(2), "bias": None}, "head": {"kernel": jnp.ones(1)}}
    trainable, frozen = split(tree, label(tree, HEAD_ONLY))
    assert join(trainable, frozen)["params"]["bias"] is None


def test_arrays_that_a_method_fixes_are_never_trained():
    frozen = ["layers/q_proj/kernel/a"]
    labels = label(VARIABLES, LORA, frozen)
    assert labels["adapter"]["layers/q_proj/kernel"] == {"a": FROZEN, "b": "adapter"}
    with pytest.raises(ValueError, match="'adapter/layers/k_proj/kernel/a' is to be frozen, but"):
        label(VARIABLES, LORA, ["layers/k_proj/kernel/a"])
