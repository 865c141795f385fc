"""The studies on a real decoder and real texts: what is learnt by heart, and what is forgotten."""

import numpy as np
import pytest
from rich.console import Console

from configs import stories260k
from experiments import rank
from experiments.subject import load

pytestmark = [pytest.mark.needs_data, pytest.mark.slow]


@pytest.fixture
def config(data_dir, monkeypatch):
    """stories260K on a few of the shortest texts of E2E."""
    monkeypatch.setenv("LORA_JAX_DATA", str(data_dir))
    config = rank.defaults()
    config.task.name = "e2e_nlg"
    config.model.update(name=stories260k.NAME, path=stories260k.find())
    config.examples.update(train=24, validation=12, test=12, own=0)
    config.update(length=120, batch_size=4, seeds=(0, 1), search_seeds=1)
    config.update(ranks=(1, 4), target_sets=("q_proj",))
    return config


def test_an_adapter_holds_no_more_bits_than_there_are_and_the_study_keeps_its_rates(
    config, tmp_path
):
    config.capacity.update(rows=2, length=8, steps=20)
    about, before = load(config), config.to_dict()
    stored = rank.fill(config, about, tmp_path / "capacity.jsonl", Console(quiet=True))
    assert config.to_dict() == before
    assert [one.rank for one in stored] == [1, 4]
    for one in stored:
        assert one.most == pytest.approx(2 * (8 - 1) * np.log2(512 - 3))
        assert one.bits.mean == pytest.approx(np.mean(one.scores))
        assert max(one.scores) < one.most
    assert stored[1].bits.mean > stored[0].bits.mean


def test_the_base_says_its_own_texts_better_than_those_of_the_task(config):
    config.examples.own = 8
    about = load(config)
    assert (about.own.examples["ids"][:, 0] == 1).all()  # each begins as a text does
    (own,) = about.own.score_base(about.base).values()
    learns, variables = about.objective, {"params": about.base.params}
    found = learns.score(learns.predictor(None), about.test, 12, variables)
    # The base's loss on the stories that it was trained on is 1.3 nats, by its author.
    assert 0.8 < own < 1.9
    assert found["loss"] > own + 1
    assert (about.test["segments"].sum(1) <= 120).all()
