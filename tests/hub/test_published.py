"""Published models build without memory, count what was published, and know every tensor's name."""

import math

import jax
import pytest
from golden import published

from lora_jax import models


@pytest.mark.parametrize("name", published.NAMES)
def test_the_number_of_parameters_is_the_published_one(name):
    facts = published.read(name)
    _, shapes = published.build(facts)
    assert agrees(sum(math.prod(shape) for shape in shapes.values()), facts["published"])


def test_gpt_3_has_the_published_number_of_parameters():
    """Brown et al., 2020, table 2.1; no files were published, so there are no names to compare."""
    shapes = jax.tree.leaves(models.build(models.gpt3_config("175B")).shapes)
    assert agrees(sum(math.prod(leaf.shape) for leaf in shapes), "175B")


@pytest.mark.parametrize("name", published.NAMES)
def test_every_tensor_of_the_original_is_one_slice_of_a_param_and_the_reverse(name):
    facts = published.read(name)
    assert published.digest(published.ours(facts)) == facts["tensors"]


@pytest.mark.torch
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", published.NAMES)
def test_the_original_beside_it_has_the_same_tensors(name):
    pytest.importorskip("torch", reason="torch is not installed")
    pytest.importorskip("transformers", reason="transformers is not installed")
    facts = published.read(name)
    assert published.theirs(facts) == published.ours(facts)


def agrees(found, published):
    """Whether a number is within one unit of the last digit of a figure such as "1.5B"."""
    if published.isdigit():
        return found == int(published)
    unit = {"M": 10**6, "B": 10**9}[published[-1]]
    digits = len(published.partition(".")[2][:-1])
    return abs(found - float(published[:-1]) * unit) < unit / 10**digits
