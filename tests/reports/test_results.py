"""results.json survives a round trip, and a failure leaves what was there."""

import dataclasses
import json
import math
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_jax.evaluation import Interval
from lora_jax.reports import read_results, write_results
from lora_jax.reports.results import to_plain

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(plain)
def test_plain_json_is_left_as_it_is(value):
    assert to_plain(value) == json.loads(json.dumps(value))


@dataclasses.dataclass
class Method:
    rank: int


def test_arrays_records_and_paths_are_read_back_as_plain_values(tmp_path):
    path = tmp_path / "results.json"
    results = {
        "score": Interval(0.5, 0.4, 0.6),
        "method": Method(rank=8),
        "losses": jnp.array([1.0, 0.5]),
        "count": np.int64(3),
        "seeds": (0, 1),
        "where": Path("runs/quickstart"),
        "diverged": math.nan,
        1: "a key that is no string",
    }
    write_results(path, results)
    assert read_results(path) == {
        "score": {"mean": 0.5, "low": 0.4, "high": 0.6},
        "method": {"rank": 8},
        "losses": [1.0, 0.5],
        "count": 3,
        "seeds": [0, 1],
        "where": "runs/quickstart",
        "diverged": None,
        "1": "a key that is no string",
    }


def test_a_value_that_json_cannot_hold_is_named_and_the_old_file_stays(tmp_path):
    path = tmp_path / "results.json"
    write_results(path, {"score": 1})
    with pytest.raises(TypeError, match=r"results\.runs\[1\]\.model is a object"):
        write_results(path, {"runs": [{}, {"model": object()}]})
    assert read_results(path) == {"score": 1}


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_results(tmp_path / "results.json")


@pytest.mark.parametrize(("text", "message"), [('{"a": 1', "not complete JSON"), ("[1]", "list")])
def test_a_file_cut_short_or_of_another_shape_is_refused(tmp_path, text, message):
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_results(path)
