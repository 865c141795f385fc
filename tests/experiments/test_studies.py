"""The studies of ranks, weights, rates and full fine-tuning, in small, on a tiny encoder."""

import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from experiments import learning_rate, lora_vs_full, rank, weight_types
from experiments.joint import FULL, Choice, Run, Together, adapt
from experiments.subject import load

BERT = Path(__file__).parent.parent / "fixtures" / "bert"
LAYERS, DIM = (
    json.loads((BERT / "config.json").read_text())[name]
    for name in ("num_hidden_layers", "hidden_size")
)
EXPERIMENTS = {
    "rank": rank,
    "weight_types": weight_types,
    "learning_rate": learning_rate,
    "lora_vs_full": lora_vs_full,
}


@pytest.fixture(scope="module", autouse=True)
def data(tmp_path_factory):
    """Sentences that are long if they are good, in the files of SST-2."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "glue" / "SST-2").mkdir(parents=True)
    for part, count in (("train", 48), ("dev", 12)):
        lines = [f"{'a film ' * (1 + 2 * (i % 2))}{i}\t{i % 2}" for i in range(count)]
        text = "\n".join(["sentence\tlabel", *lines]) + "\n"
        (folder / "glue" / "SST-2" / f"{part}.tsv").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LORA_JAX_DATA", str(folder))
        yield


def settings(name, **more):
    """A config that takes seconds."""
    config = EXPERIMENTS[name].defaults()
    config.task.name = "sst2"
    config.model.update(name="tiny", path=str(BERT))
    config.examples.update(train=24, validation=12, test=12, own=0)
    config.update(length=8, batch_size=4, evaluation_batch_size=12, steps=2)
    config.update(seeds=(0, 1), search_seeds=1)
    config.rates.update(lora=(1e-3, 1e-2), full=(1e-3,))
    config.update(more)
    return config


def results(workdir):
    return json.loads((workdir / "results.json").read_text())


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """A finished study of ranks, and its config."""
    workdir = tmp_path_factory.mktemp("ranks") / "run"
    config = settings("rank", ranks=(1, 4), target_sets=("q_proj",))
    rank.main(config, workdir)
    return workdir, config


@pytest.mark.slow
def test_every_rank_has_every_seed_at_the_rate_of_the_lowest_validation_loss(ranks):
    workdir, _ = ranks
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 2 * (2 + 1)  # two ranks; two rates with a seed, the better with the other
    for outcome in results(workdir)["outcomes"]:
        own = [row for row in rows if row["choice"] == outcome["name"]]
        first = {row["rate"]: row["validation"] for row in own if row["seed"] == 0}
        assert outcome["rate"] == min(first, key=first.get)
        best = [row for row in own if row["rate"] == outcome["rate"]]
        assert outcome["scores"] == [row["test"] for row in best]
        assert [row["seed"] for row in best] == [0, 1]
        assert outcome["trained"] == LAYERS * outcome["rank"] * 2 * DIM


@pytest.mark.slow
def test_the_report_has_the_published_rows_and_says_so(ranks):
    page = (ranks[0] / "report.html").read_text()
    assert "published" in page
    assert "table 18" in page
    assert results(ranks[0])["experiment"] == "rank"


@pytest.mark.slow
def test_a_killed_study_keeps_its_finished_runs_and_ends_the_same(ranks, monkeypatch):
    workdir, config = ranks
    before, log = results(workdir), workdir / "metrics.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    # As if it had been killed while it wrote the fifth of six runs.
    log.write_text("".join(lines[:4]) + lines[4][:20])
    trained, train = [], Together.train

    def count(self, runs, console):
        trained.extend(runs)
        return train(self, runs, console)

    monkeypatch.setattr(Together, "train", count)
    rank.main(config, workdir)
    assert len(trained) == 2
    assert log.read_text().splitlines(keepends=True)[:4] == lines[:4]
    for now, then in zip(results(workdir)["outcomes"], before["outcomes"], strict=True):
        np.testing.assert_allclose(now["scores"], then["scores"], atol=1e-6)


@pytest.mark.slow
def test_runs_trained_together_are_those_trained_alone():
    config = settings("rank", steps=4)
    about = load(config)
    size = (16.0, 4, 4)
    runs = [
        Run(Choice("q", ("q_proj",), 1, *size), 1e-2, 0),
        Run(Choice("v and fc2", ("v_proj", "fc2"), 4, *size), 3e-3, 1),
    ]
    quiet = Console(quiet=True)
    together = Together(config, about, [run.choice for run in runs]).train(runs, quiet)
    alone = [Together(config, about, [run.choice]).train([run], quiet)[0] for run in runs]
    for joint, own in zip(together, alone, strict=True):
        np.testing.assert_allclose(joint.losses, own.losses, rtol=1e-5)
        assert joint.validation == pytest.approx(own.validation, rel=1e-5)


@pytest.mark.slow
def test_weight_types_fit_the_budget(tmp_path):
    config = settings("weight_types", target_sets=("q_proj", "q_proj+v_proj", "fc1+fc2"))
    config.budget.rank = 8
    config.rates.lora = (1e-2,)
    weight_types.main(config, tmp_path / "run")
    found = results(tmp_path / "run")
    budget = found["budget"]
    assert budget == LAYERS * 8 * 2 * DIM
    for outcome in found["outcomes"]:
        step = outcome["trained"] / outcome["rank"]
        assert abs(outcome["trained"] - budget) <= step / 2
    best = min(found["outcomes"], key=lambda outcome: -outcome["score"]["mean"])
    assert best["behind"]["mean"] == 0


@pytest.mark.slow
def test_full_fine_tuning_is_compared_in_every_setting_and_its_cost_is_higher(tmp_path):
    config = settings("lora_vs_full", rank=2, large_batch=0, few_examples=(), timed_steps=2)
    config.rates.lora = (1e-2,)
    lora_vs_full.main(config, tmp_path / "run")
    found = results(tmp_path / "run")
    assert [outcome["setting"] for outcome in found["outcomes"]] == ["usual", "usual"]
    adapter, whole = found["costs"]
    assert adapter["trained"] < whole["trained"]
    assert adapter["optimizer"] < whole["optimizer"]
    assert adapter["frozen"] > 0
    assert len(whole["seconds"]) == 2


def test_a_rank_larger_than_a_weight_is_refused_before_anything_is_trained(tmp_path):
    config = settings("rank", ranks=(1, 64), target_sets=("q_proj",))
    with pytest.raises(ValueError, match="rank 64 is larger than"):
        rank.main(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_directory_of_another_experiment_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"experiment": "subspace"}))
    with pytest.raises(ValueError, match="belongs to another experiment"):
        rank.main(settings("rank", ranks=(1,), target_sets=("q_proj",)), tmp_path)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("rank", {"seeds": ()}, "one or more different whole numbers"),
        ("rank", {"seeds": (1, 1)}, "one or more different whole numbers"),
        ("rank", {"search_seeds": 3}, "search_seeds = 3"),
        ("rank", {"steps": 1}, "at least 2"),
        ("rank", {"ranks": (0, 1)}, "different ranks from 1"),
        ("rank", {"metric": "bleu"}, "unknown metric of task 'sst2'"),
        ("rank", {"capacity": {"rows": 2}}, "only a model that writes"),
        ("learning_rate", {"search_seeds": 1}, "the whole grid"),
        ("learning_rate", {"search_seeds": 2}, "a parabola takes at least 3"),
        ("lora_vs_full", {"large_batch": 3}, "large_batch = 3"),
        ("lora_vs_full", {"large_batch": 0, "few_examples": (2,)}, "few_examples: 2"),
        ("weight_types", {"target_sets": ("q_porj",)}, "q_proj"),
    ],
)
def test_settings_that_no_run_could_use_are_refused(name, change, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        EXPERIMENTS[name].main(settings(name, **change), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_full_fine_tuning_has_no_adapter():
    assert adapt(load(settings("rank")), Choice(FULL, (), 0, 16.0, 4, 2)) is None
