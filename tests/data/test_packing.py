"""Packing: nothing is lost, split or reordered at random, and what is cut is said."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_jax.data import efficiency, pack, pad


def examples(sizes):
    """Examples whose tokens are all different, the second half of each to be predicted."""
    start = np.cumsum([1, *sizes])
    return [
        {"ids": np.arange(at, at + n, dtype=np.int32), "trained": (np.arange(n) >= n // 2) * 1}
        for at, n in zip(start, sizes, strict=False)
    ]


def unpacked(rows):
    """The examples that lie in rows, in the order of the rows."""
    return [
        {name: rows[name][row][rows["segments"][row] == number] for name in ("ids", "trained")}
        for row in range(len(rows["ids"]))
        for number in range(1, rows["segments"][row].max() + 1)
    ]


def by_first_token(found):
    return sorted((e["ids"].tolist(), e["trained"].tolist()) for e in found)


@given(st.lists(st.integers(1, 12), min_size=1, max_size=30))
def test_every_example_is_packed_exactly_once_and_whole(sizes):
    given = examples(sizes)
    rows = pack(given, 12)
    assert by_first_token(unpacked(rows)) == by_first_token(given)
    assert {x.dtype for x in rows.values()} == {np.dtype("int32")}
    padding = rows["segments"] == 0
    assert not rows["ids"][padding].any()
    assert not rows["trained"][padding].any()
    # Padding comes last, so that tokens of an example lie side by side.
    assert (np.diff(padding.astype(int), axis=1) >= 0).all()


@given(st.lists(st.integers(1, 12), min_size=1, max_size=30))
def test_packing_is_in_a_fixed_order_that_follows_the_examples(sizes):
    rows = pack(examples(sizes), 12)
    again = pack(examples(sizes), 12)
    assert all((rows[name] == again[name]).all() for name in rows)
    assert (np.diff(rows["ids"][:, 0]) > 0).all()
    for row, segments in zip(rows["ids"], rows["segments"], strict=True):
        assert (np.diff(row[segments != 0]) > 0).all()


@given(st.lists(st.integers(1, 12), min_size=1, max_size=30))
def test_packing_needs_at_most_11_ninths_of_the_fewest_rows(sizes):
    rows = pack(examples(sizes), 12)
    fewest = -(-sum(sizes) // 12)
    # Best-fit decreasing never takes more than 11/9 of the optimum and 6/9 of a row (Johnson 1973);
    # the optimum takes at least as many as the tokens fill, and one for each of more than half.
    optimum_at_least = max(fewest, sum(n > 6 for n in sizes))
    if len(rows["ids"]) > 11 / 9 * optimum_at_least + 6 / 9:
        # Only where the bound on the optimum is loose: no two rows fit into one.
        used = np.sort((rows["segments"] != 0).sum(axis=1))
        assert used[0] + used[1] > 12


def test_efficiency_is_the_share_of_real_tokens():
    sizes = [3, 9, 6, 6]
    assert efficiency(pack(examples(sizes), 12)) == 1
    assert efficiency(pad(examples(sizes), 12)) == 0.5


def test_padding_gives_each_example_its_own_row():
    rows = pad(examples([2, 3]), 4, pad_id=9)
    assert rows["ids"].tolist() == [[1, 2, 9, 9], [3, 4, 5, 9]]
    assert rows["trained"].tolist() == [[0, 1, 0, 0], [0, 1, 1, 0]]
    assert rows["segments"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 0]]


@pytest.mark.parametrize("make", [pad, pack])
def test_examples_that_are_too_long_are_refused_by_default(make):
    with pytest.raises(ValueError, match=r"1 of 2 examples are longer than 4 tokens \(up to 7\)"):
        make(examples([7, 2]), 4)


@pytest.mark.parametrize("make", [pad, pack])
def test_cutting_says_how_many_trained_tokens_are_lost(make):
    with pytest.warns(UserWarning, match="ends are cut off, and 3 trained tokens with them"):
        rows = make(examples([7, 2]), 4, too_long="cut")
    assert sorted(len(e["ids"]) for e in unpacked(rows)) == [2, 4]
    assert rows["trained"].sum() == 4 + 1 - 3


@pytest.mark.parametrize("make", [pad, pack])
def test_dropping_says_what_is_lost_and_keeps_the_others(make):
    with pytest.warns(UserWarning, match="are left out, and 4 trained tokens with them"):
        rows = make(examples([7, 2]), 4, too_long="drop")
    assert [e["ids"].tolist() for e in unpacked(rows)] == [[8, 9]]
    with (
        pytest.warns(UserWarning, match="left out"),
        pytest.raises(ValueError, match="none is left"),
    ):
        make(examples([7]), 4, too_long="drop")


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        ([], {}, "there are no examples"),
        (examples([2]), {"too_long": "trim"}, "unknown too_long 'trim'; known: raise, cut, drop"),
        (examples([2]), {"length": 0}, "rows of 0 tokens"),
        ([{"ids": np.zeros(0), "trained": np.zeros(0)}], {}, "example 0: .* are not one sequence"),
        ([{"ids": np.zeros(2), "trained": np.zeros(3)}], {}, r"ids of shape \(2,\) and trained of"),
    ],
)
def test_what_cannot_be_packed_is_refused(given, options, message):
    for make in (pad, pack):
        with pytest.raises(ValueError, match=message):
            make(given, **{"length": 4, **options})


def test_nothing_is_said_where_everything_fits():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pack(examples([4, 4]), 4, too_long="cut")
