import pytest

from lora_jax.training import Best


def rows(*values, name="eval/accuracy"):
    found = []
    for step, value in enumerate(values, 1):
        found += [{"step": step, "loss": 1.0}, {"step": step, name: value}]
    return found


@pytest.mark.parametrize(
    ("values", "newest"),
    [
        ((), False),
        ((0.5,), True),
        ((0.5, 0.6), True),
        ((0.5, 0.5), False),  # as good is no better: the earlier one stays
        ((0.5, None), False),
        ((None,), False),
        ((None, 0.5), True),
        ((0.6, 0.4, 0.5), False),
    ],
)
def test_an_evaluation_is_the_best_if_it_beats_all_before_it(values, newest):
    assert Best(metric="accuracy").is_newest(rows(*values)) == newest
    negated = rows(*(None if value is None else -value for value in values))
    assert Best(metric="accuracy", mode="min").is_newest(negated) == newest


@pytest.mark.parametrize(
    ("values", "gives_up"),
    [
        ((), False),
        ((0.5, 0.4), False),
        ((0.5, 0.4, 0.5), True),
        ((0.5, 0.4, 0.6), False),
        ((0.5, None, None), True),
        ((None, None), True),
    ],
)
def test_patience_counts_evaluations_since_the_best(values, gives_up):
    assert Best(metric="accuracy", patience=2).gives_up(rows(*values)) == gives_up
    assert not Best(metric="accuracy").gives_up(rows(*values))


def test_bad_settings_are_refused(without_type_checks):
    for settings in ({"mode": "most"}, {"patience": -1}):
        with pytest.raises(ValueError, match="the mode is max or min, and the patience 0 or more"):
            Best(metric="accuracy", **settings)
