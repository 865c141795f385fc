"""Metrics against the published scripts' values, as scripts/record_metrics.py recorded them."""

import csv
import json
from pathlib import Path

import pytest

from lora_jax.evaluation import METRICS, bootstrap_interval
from lora_jax.evaluation.metrics.tokens import caption_tokens

RECORDED = json.loads(
    (Path(__file__).parents[2] / "fixtures" / "metrics.json").read_text(encoding="utf-8")
)
CORPORA = RECORDED["corpora"]
NAMES = sorted(set(CORPORA["one reference"]["scores"]) - {"caption_tokens"})


@pytest.mark.parametrize("corpus", CORPORA)
@pytest.mark.parametrize("name", NAMES)
def test_the_metric_is_the_published_scripts(name, corpus):
    case = CORPORA[corpus]
    value = METRICS[name](case["predictions"], case["references"])
    assert value == pytest.approx(case["scores"][name], rel=1e-6)


@pytest.mark.parametrize("corpus", CORPORA)
def test_captions_are_cut_as_by_stanfords_tokeniser(corpus):
    case = CORPORA[corpus]
    assert list(map(caption_tokens, case["predictions"])) == case["scores"]["caption_tokens"]


def test_anls_is_that_of_its_package():
    case = RECORDED["anls"]
    for prediction, references, score in zip(*case.values(), strict=True):
        assert METRICS["anls"]([prediction], [references]) == pytest.approx(score, rel=1e-6)


@pytest.fixture(scope="module")
def e2e_devset(data_dir):
    """The first reference of each instance, and all others of it."""
    instances = {}
    with (data_dir / "e2e_nlg" / "devset.csv").open(encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            instances.setdefault(row["mr"], []).append(row["ref"])
    assert len(instances) == 547
    return [texts[0] for texts in instances.values()], [texts[1:] for texts in instances.values()]


@pytest.mark.needs_data
@pytest.mark.parametrize("name", RECORDED["e2e_devset"])
def test_people_score_against_each_other_on_e2e_what_the_official_scripts_say(name, e2e_devset):
    expected = RECORDED["e2e_devset"][name]
    assert METRICS[name](*e2e_devset) == pytest.approx(expected, rel=1e-6)


@pytest.mark.needs_data
def test_an_interval_of_bleu_on_e2e_holds_the_value_within_a_few_points(e2e_devset):
    value, low, high = bootstrap_interval(METRICS["bleu_lowercase"], *e2e_devset)
    assert low < value < high
    assert 1 < high - low < 4
