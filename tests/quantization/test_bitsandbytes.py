"""Against bitsandbytes: what scripts/record_bitsandbytes.py recorded of version 0.50.2 on a CPU."""

import importlib.util
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from lora_jax.quantization import Nf4, quantize_array
from lora_jax.quantization.codes import NF4, dynamic_tree

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def theirs():
    return np.load(ROOT / "tests" / "fixtures" / "bitsandbytes" / "nf4.npz")


@pytest.fixture(scope="module")
def weight():
    path = ROOT / "scripts" / "record_bitsandbytes.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.weight()  # [out, in], as torch holds it


def repacked(codes):
    """Codes [out, in / 2] as we store them, [in / 2, out]."""
    return np.ascontiguousarray(codes.T)


def test_tables_are_theirs(theirs):
    np.testing.assert_array_equal(NF4, theirs["table"])
    np.testing.assert_allclose(dynamic_tree(), theirs["scale_table"], rtol=2e-6, atol=1e-13)


def test_codes_groups_and_offset_are_theirs(theirs, weight):
    ours = quantize_array(jnp.asarray(weight.T), "nf4")
    np.testing.assert_array_equal(ours.codes, repacked(theirs["codes"]))
    np.testing.assert_allclose(ours.groups, theirs["groups"], rtol=1e-6)
    np.testing.assert_allclose(ours.offset, theirs["offset"], rtol=1e-6)


def test_scales_are_at_least_as_near_as_theirs(theirs, weight):
    # On a CPU bitsandbytes looks the code up in a coarse table and at times takes a neighbour's.
    ours = quantize_array(jnp.asarray(weight.T), "nf4")
    absmax = np.abs(weight.reshape(80, 4, 64)).max(-1) - theirs["offset"]
    table, groups = theirs["scale_table"], np.repeat(theirs["groups"], 256)[:320].reshape(80, 4)
    our_error = np.abs(table[np.asarray(ours.scales).T] * groups - absmax)
    their_error = np.abs(table[theirs["scales"]] * groups - absmax)
    assert (our_error <= their_error + 1e-6 * groups).all()
    assert (theirs["scales"] == np.asarray(ours.scales).T).mean() > 0.95


def test_their_arrays_dequantise_to_their_weight(theirs):
    codes, scales = repacked(theirs["codes"]), np.ascontiguousarray(theirs["scales"].T)
    arrays = map(jnp.asarray, (codes, scales, theirs["groups"], theirs["offset"]))
    dense = Nf4(*arrays, jnp.dtype("float32")).dequantize()
    np.testing.assert_allclose(dense[:, :8].T, theirs["first_rows"], rtol=1e-6, atol=1e-9)
