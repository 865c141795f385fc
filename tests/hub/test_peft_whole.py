"""Arrays that are trained whole: PEFT keeps their values, we keep what was added to the base."""

import hypothesis.extra.numpy as arrays
import hypothesis.strategies as st
import jax
import ml_dtypes
import numpy as np
import pytest
from golden.peft import FIXTURES
from hypothesis import given, settings
from safetensors.numpy import load_file, save_file

import lora_jax as lora
from lora_jax import hub
from lora_jax.hub.peft_whole import put_on, take_off

IDS = np.arange(10).reshape(2, 5)
WEIGHTS = "adapter_model.safetensors"
# No underflow: of a difference that rounds to a subnormal number nothing is said here.
FLOATS = st.floats(-1e4, 1e4, width=32).map(lambda x: 0.0 if abs(x) < 1e-20 else x)
PAIRS = arrays.arrays(np.float32, (2, 16), elements=FLOATS)


@given(PAIRS)
@settings(max_examples=200, deadline=None)
def test_values_come_back_bit_for_bit_where_their_difference_needs_no_rounding(pair):
    base, values = pair
    again = put_on(base, take_off(base, values, np.float32))
    same_sign = np.sign(base) == np.sign(values)
    near = same_sign & (abs(values) <= 2 * abs(base)) & (abs(base) <= 2 * abs(values))
    exact = near | (base == 0)
    np.testing.assert_array_equal(again[exact], values[exact])


@given(PAIRS)
@settings(max_examples=200, deadline=None)
def test_elsewhere_the_error_is_within_the_stated_bound(pair):
    base, values = pair
    again = put_on(base, take_off(base, values, np.float32)).astype(np.float64)
    wide = values.astype(np.float64)
    bound = 2.0**-24 * (abs(wide - base) + abs(wide))
    assert (abs(again - wide) <= bound * (1 + 2.0**-20)).all()


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16])
def test_values_that_the_type_of_the_base_holds_are_written_in_it(dtype):
    base = np.linspace(0.1, 2, 16).astype(dtype)
    values = (base * dtype(1.5)).astype(dtype)
    again = put_on(base, take_off(base, values, np.float32))
    assert again.dtype == dtype
    assert again.tobytes() == values.tobytes()
    finer = put_on(base, np.full(16, 1e-5, np.float32))  # as a step of training would
    assert finer.dtype == np.float32


def test_a_head_that_peft_trained_for_a_while_is_written_again_byte_for_byte(tmp_path):
    """Values that moved by a tenth, in a base of bf16, as files of PEFT hold them."""
    model = hub.load_model(FIXTURES / "llama", dtype="bfloat16")
    method = {"q_proj": lora.LoRA(rank=2), "norm/scale": lora.Full(), "lm_head": lora.Full()}
    lifted = lora.lift(model.apply, model.params, IDS, targets=method)
    factors = lifted.init(jax.random.key(0), model.params)
    hub.save_peft(tmp_path / "base", lifted, factors, params=model.params)
    tensors = load_file(tmp_path / "base" / WEIGHTS)
    rng = np.random.default_rng(0)
    for name, tensor in tensors.items():
        if "lora_" not in name:
            moved = tensor.astype(np.float32) * rng.uniform(0.9, 1.1, tensor.shape)
            tensors[name] = moved.astype(ml_dtypes.bfloat16)
    save_file(tensors, tmp_path / "base" / WEIGHTS, {"format": "pt"})
    again, found = hub.lift_peft(tmp_path / "base", model.apply, model.params, IDS)
    hub.save_peft(tmp_path / "again", again, found, params=model.params)
    written = load_file(tmp_path / "again" / WEIGHTS)
    assert written.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert written[name].dtype == tensor.dtype, name
        assert written[name].tobytes() == tensor.tobytes(), name
