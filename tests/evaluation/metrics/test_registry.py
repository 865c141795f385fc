"""What holds for every metric: what it refuses, its bounds, and what it may not depend on."""

import ast
import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_jax.evaluation import METRICS, TextMetric, find_metric, metrics

LABELS = [name for name, metric in METRICS.items() if not isinstance(metric, TextMetric)]
# `meteor` has a test of its own, where WordNet is made.
TEXTS = [name for name in METRICS if name not in LABELS and name != "meteor"]

# The best and the worst value; NIST has no upper bound, TER none either.
BEST = {"bleu": 100.0, "bleu_lowercase": 100.0, "nist": np.inf, "ter": 0.0, "cider": 10.0}
WORST = {"ter": 100.0}

JSON_METRICS = ["entity_precision", "entity_recall", "entity_f1", "key_value_overlap"]
words = st.sampled_from(
    [
        "the",
        "Mill",
        "is",
        "a",
        "cheap",
        "pub",
        "near",
        "Café",
        "Rouge",
        ",",
        "rated",
        "4.5",
        ".",
        "It",
        "isn't",
    ]
)
sentences = st.lists(words, min_size=4, max_size=12).map(" ".join)
fields = st.dictionaries(st.sampled_from(["total", "date", "company"]), sentences, min_size=1)
TEXT_OF = {
    # One word and punctuation have no pair of words, and so no ROUGE-2, even when predicted.
    "rouge_2": sentences.filter(lambda text: len(re.findall(r"\w+", text)) > 1),
    **dict.fromkeys(JSON_METRICS, fields.map(json.dumps)),
    "final_answer": st.integers(-2000, 2000).map("so it is {0}\n#### {0:,}".format),
    "choice": st.sampled_from(["A", "(B) aspirin", "C. none", "the answer is D"]),
    "tool_calls": st.sampled_from(["[Find(x=1)]", '[Find(x=2), News API(q="a, b")]', "[]"]),
    "logical_form": st.sampled_from(
        [
            "SELECT a FROM t",
            "SELECT MAX b FROM t WHERE c = 1 AND d > x y",
            '{"sel": 1, "agg": 0, "conds": []}',
        ]
    ),
}


def texts_of(name):
    return TEXT_OF.get(name, sentences)


def corpora(name):
    """A few examples, each of a prediction and one to three references."""
    text = texts_of(name)
    example = st.tuples(text | st.just(""), st.lists(text, min_size=1, max_size=3))
    return st.lists(example, min_size=1, max_size=5)


@pytest.mark.parametrize("name", LABELS)
def test_every_metric_of_labels_refuses_no_samples_at_all(name):
    empty = np.zeros(0, np.int64)
    with pytest.raises(ValueError, match="no sample"):
        METRICS[name](empty, empty)


@pytest.mark.parametrize("name", LABELS)
def test_every_metric_of_labels_refuses_series_of_different_lengths(name):
    # The import hook refuses the shapes first; without it the function's own check does.
    function = getattr(METRICS[name], "__wrapped__", METRICS[name])
    with pytest.raises(ValueError, match=r"\(3,\) predictions for \(2,\) labels"):
        function(np.zeros(3, np.int64), np.zeros(2, np.int64))


@pytest.mark.parametrize("name", LABELS)
def test_labels_that_are_all_predicted_score_one(name):
    labels = np.array([0, 1, 2, 1])
    assert METRICS[name](labels, labels) == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        ([], [], "no sample"),
        (["a", "b"], [["a"]], "2 predictions for 1 references"),
        (["a"], [[]], "example 0 has no reference"),
        (["a b"], ["a b"], "the references of example 0 are one text, 'a b'"),
    ],
)
def test_every_metric_of_texts_refuses_what_has_no_value(name, predictions, references, message):
    with pytest.raises(ValueError, match=message):
        METRICS[name](predictions, references)


@pytest.mark.parametrize("name", TEXTS)
def test_a_perfect_prediction_scores_the_maximum(name):
    @settings(max_examples=20, deadline=None)
    @given(st.lists(texts_of(name), min_size=2, max_size=4, unique=True))
    def check(texts):
        value = METRICS[name](texts, [[text] for text in texts])
        if name == "nist":
            longer = METRICS[name]([f"{text} indeed" for text in texts], [[t] for t in texts])
            assert value >= longer > 0
        elif name == "cider":
            # N-grams of every example weigh nothing: put the texts beside some that share none.
            others = [f"no word {place} shared here {place}" for place in "xyz"]
            predictions = [texts[0], *others]
            assert METRICS[name](predictions, [[text] for text in predictions]) <= 10 + 1e-9
            assert METRICS[name](others, [[text] for text in others]) == pytest.approx(10)
        elif name == "meteor_exact_stem":
            assert 0.98 < value < 1
        else:
            assert value == pytest.approx(BEST.get(name, 1.0), rel=1e-6)

    check()


@pytest.mark.parametrize("name", TEXTS)
def test_an_empty_prediction_scores_the_minimum(name):
    @settings(max_examples=20, deadline=None)
    @given(st.lists(texts_of(name).filter(lambda text: text != "[]"), min_size=1, max_size=3))
    def check(texts):
        value = METRICS[name]([""] * len(texts), [[text] for text in texts])
        assert value == WORST.get(name, 0.0)

    check()


@pytest.mark.parametrize("name", TEXTS)
def test_the_value_stays_in_its_bounds_whatever_the_order_or_the_copies_of_references(name):
    @settings(max_examples=20, deadline=None)
    @given(corpora(name), st.randoms(use_true_random=False))
    def check(examples, random):
        metric = METRICS[name]
        predictions, references = map(list, zip(*examples, strict=True))
        value = metric(predictions, references)
        low, high = sorted([0.0, BEST.get(name, 1.0)])
        assert low <= value <= (np.inf if name == "ter" else high + 1e-9)
        random.shuffle(examples)
        shuffled, of_shuffled = map(list, zip(*examples, strict=True))
        assert metric(shuffled, of_shuffled) == pytest.approx(value, rel=1e-9)
        doubled = [[*texts, *reversed(texts)] for texts in references]
        assert metric(predictions, doubled) == pytest.approx(value, rel=1e-9)

    check()


def test_an_unknown_metric_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match="unknown metric 'rougeL'; nearest: 'rouge_l'"):
        find_metric("rougeL")
    assert find_metric("bleu") is METRICS["bleu"]


def test_a_library_is_imported_only_when_a_metric_of_it_is_computed():
    # scikit-learn and NLTK take seconds to import; training on another metric need not wait.
    heavy = {"nltk", "rouge_score", "sacrebleu", "scipy", "sklearn"}
    sources = list(Path(metrics.__file__).parent.glob("*.py"))
    assert sources
    for source in sources:
        statements = ast.parse(source.read_text(encoding="utf-8")).body
        names = {
            statement.module for statement in statements if isinstance(statement, ast.ImportFrom)
        }
        names |= {a.name for s in statements if isinstance(s, ast.Import) for a in s.names}
        assert not {name.split(".")[0] for name in names} & heavy, source.name
