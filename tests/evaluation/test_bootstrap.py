"""Bootstrap intervals against closed forms and against reading the texts again."""

import numpy as np
import pytest

from lora_jax.evaluation import METRICS, accuracy, bootstrap_interval, pearson

PREDICTIONS = [
    "the Mill is a pub",
    "a cheap coffee shop near Rouge",
    "",
    "It serves food by the river",
]
REFERENCES = [
    ["the Mill is a cheap pub", "a pub is the Mill"],
    ["a cheap coffee shop is near Rouge"],
    ["there is no pub"],
    ["It serves French food by the river", "food is served by the river side"],
]


def test_the_interval_of_an_accuracy_is_the_one_of_the_binomial():
    labels = np.zeros(900, int)
    predicted = (np.arange(900) % 3 == 0).astype(int)
    value, low, high = bootstrap_interval(accuracy, predicted, labels, resamples=4000)
    deviation = np.sqrt((2 / 3) * (1 / 3) / 900)
    assert value == pytest.approx(2 / 3)
    assert [low, high] == pytest.approx(
        [2 / 3 - 1.96 * deviation, 2 / 3 + 1.96 * deviation], abs=2e-3
    )


@pytest.mark.parametrize("name", ["bleu", "ter", "rouge_l", "meteor_exact_stem", "entity_f1"])
def test_a_resample_by_statistics_is_the_metric_of_the_resampled_texts(name):
    # BLEU and TER of a corpus are no means: their resamples must be of counts, not of scores.
    metric, predictions, references = METRICS[name], PREDICTIONS, REFERENCES
    if name == "entity_f1":
        predictions, references = ['{"a": "1", "b": "2"}', "no"], [['{"a": "1"}'], ['{"b": "2"}']]
    random = np.random.default_rng(3)
    examples = len(predictions)
    draws = [random.integers(examples, size=examples) for _ in range(50)]
    values = [
        metric([predictions[row] for row in rows], [references[row] for row in rows])
        for rows in draws
    ]
    interval = bootstrap_interval(metric, predictions, references, resamples=50, seed=3)
    assert interval == pytest.approx(
        (metric(predictions, references), *np.quantile(values, [0.025, 0.975]))
    )


def test_more_examples_give_a_narrower_interval():
    widths = [
        bootstrap_interval(METRICS["bleu"], PREDICTIONS * times, REFERENCES * times).half_width
        for times in (4, 64)
    ]
    assert widths[1] == pytest.approx(widths[0] / 4, rel=0.15)


def test_the_same_seed_gives_the_same_interval_and_more_confidence_a_wider_one():
    intervals = [
        bootstrap_interval(METRICS["rouge_1"], PREDICTIONS, REFERENCES, confidence=confidence)
        for confidence in (0.9, 0.9, 0.99)
    ]
    assert intervals[0] == intervals[1]
    assert intervals[2].half_width > intervals[0].half_width


def test_resamples_without_a_correlation_are_left_out():
    # A resample of two examples is constant half of the time.
    scores = np.array([0.0, 1.0])
    assert bootstrap_interval(pearson, scores, scores) == pytest.approx((1, 1, 1))
    ends = bootstrap_interval(pearson, scores, np.zeros(2))[1:]
    assert np.isnan(ends).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"confidence": 1.0}, "confidence must lie in"), ({"resamples": 0}, "at least one resample")],
)
def test_impossible_intervals_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(accuracy, np.zeros(3, int), np.zeros(3, int), **options)


def test_wrong_arguments_are_refused_by_the_metric():
    with pytest.raises(ValueError, match="2 predictions for 1 references"):
        bootstrap_interval(METRICS["bleu"], ["a", "b"], [["a"]])
