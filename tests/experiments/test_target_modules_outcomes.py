"""Published claims against outcomes whose truth is known."""

import numpy as np
import pytest

from experiments.target_modules_outcomes import (
    AMAZON,
    QLORA,
    RAG,
    REGRET,
    Outcome,
    compare_claims,
    difference,
)
from experiments.target_modules_runs import FULL, HEAD
from lora_jax.evaluation import Latency, ResponseTimes

BASE = np.linspace(1.0, 1.2, 40)


def outcome(name, mean, slower=1.0, spread=0.01):
    noise = spread * np.array([-1.0, -0.5, 0.0, 0.5, 1.0])  # the same seeds in all
    base, times = (ResponseTimes(Latency(factor * BASE)) for factor in (1.0, slower))
    return Outcome(
        name=name,
        rank=None if name in (HEAD, FULL) else 8,
        parameters=100,
        rate=1e-3,
        scores=tuple((mean + noise).tolist()),
        unmerged_score=None,
        losses=[[1.0]] * 5,
        unmerged=times,
        merged=base,
        base=base,
    )


def claims_of(study, head=0.5):
    found = compare_claims(study, [outcome(HEAD, head), outcome(FULL, 0.9)])
    return {(claim.source, claim.published): claim for claim in found}


def only(claims, source, words):
    (found,) = [c for (s, published), c in claims.items() if s == source and words in published]
    return found


def test_a_difference_is_taken_seed_by_seed():
    gap = difference(outcome("fc1", 0.8, spread=0.1), outcome("fc2", 0.7, spread=0.1))
    assert gap.mean == pytest.approx(0.1)
    assert gap.half_width == pytest.approx(0, abs=1e-9), "what seeds share cancels"


@pytest.mark.parametrize(("mlp", "agrees"), [(0.9, "yes"), (0.5, "no"), (0.701, "cannot be told")])
def test_mlp_against_attention_is_told_by_the_interval(mlp, agrees):
    study = {"parameters": [outcome("fc1+fc2", mlp, spread=0.02), outcome("qkv+o_proj", 0.7)]}
    claim = only(claims_of(study), REGRET, "MLP alone beats")
    assert claim.agrees == agrees
    assert "equal parameters" in claim.measured


def test_controls_that_contradict_one_another_are_told():
    better, worse = ([outcome("o_proj+fc2", m), outcome("o_proj", 0.7)] for m in (0.9, 0.5))
    claim = only(claims_of({"rank": better, "parameters": worse}), AMAZON, "o_proj+fc2 beats")
    assert claim.agrees == "it depends on the control"
    assert "equal rank: +0.200" in claim.measured
    assert "equal parameters: -0.200" in claim.measured


def test_latency_of_p95_is_compared_with_its_interval():
    study = {"rank": [outcome("o_proj", 0.7, 1.1), outcome("o_proj+fc2", 0.7, 1.375)]}
    claim = only(claims_of(study), AMAZON, "TPOT p95")
    assert claim.agrees == "yes"
    assert "20.0 % [20.0, 20.0] lower" in claim.measured
    assert "22.6 %" in claim.published


@pytest.mark.parametrize(("head", "agrees"), [(0.5, "yes"), (0.9, "no")])
def test_every_set_is_held_against_the_head_alone(head, agrees):
    study = {"rank": [outcome("o_proj", 0.7), outcome("fc1", 0.8)]}
    assert only(claims_of(study, head), AMAZON, "every set").agrees == agrees


def test_the_front_is_named():
    study = {"rank": [outcome("q_proj+v_proj", 0.8, 1.1), outcome("all-linear", 0.7, 1.3)]}
    claim = only(claims_of(study), RAG, "dominate")
    assert claim.agrees == "yes"
    assert claim.measured.endswith("q_proj+v_proj r8")


def test_a_claim_whose_sets_were_not_tried_is_left_out():
    found = claims_of({"rank": [outcome("q_proj", 0.7)]})
    assert not [source for source, _ in found if source == QLORA]
