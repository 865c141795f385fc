"""Runs side by side: what pairs up is tested in pairs, and what cannot be compared is refused."""

import json
import subprocess
import sys

import pytest
from scipy import stats

from experiments import compare
from lora_jax.reports import read_results, write_report
from lora_jax.reports.saved_run import write_predictions
from tests.experiments.command import ROOT

LABELS = [0, 1] * 60


def wrong_at(*places):
    return [1 - label if place in places else label for place, label in enumerate(LABELS)]


def make_run(folder, name, results, predictions=None, experiment="finetune", **config):
    workdir = folder / name
    workdir.mkdir()
    (workdir / "config.json").write_text(json.dumps(config))
    write_report(workdir, experiment, config, results, title=name, sections=[])
    if predictions is not None:
        write_predictions(workdir, ["accuracy"], predictions, LABELS)
    return workdir


def compared(folder, *directories, metrics=()):
    compare.main(directories, folder / "out", metrics)
    page = (folder / "out" / "report.html").read_text(encoding="utf-8")
    return read_results(folder / "out" / "results.json"), page


def test_runs_that_differ_in_their_seed_alone_are_compared_seed_by_seed(tmp_path):
    rank = {"method": {"name": "LoRA", "rank": 8}}, {"method": {"name": "LoRA", "rank": 64}}
    low, high = [0.80, 0.82, 0.79, 0.81], [0.84, 0.85, 0.84, 0.85]
    runs = [
        make_run(tmp_path, f"{name}{seed}", {"accuracy": scores[seed]}, seed=seed, **config)
        for name, scores, config in (("low", low, rank[0]), ("high", high, rank[1]))
        for seed in range(4)
    ]
    results, page = compared(tmp_path, *runs)
    assert [run["of_seeds"] for run in results["runs"]] == [[0, 1, 2, 3]] * 2
    assert results["settings"] == {"method.rank": [8, 64]}
    (test,) = results["tests"]
    assert test["method"] == "t, 4 seeds"
    assert test["difference"]["mean"] == pytest.approx(0.04)
    assert test["p"] == pytest.approx(stats.ttest_rel(high, low).pvalue)
    # Of four pairs the ranks cannot give a smaller one.
    assert test["p_wilcoxon"] == pytest.approx(0.125)
    assert test["p_holm"] == test["p"]
    assert "Beyond chance from low0: high0 accuracy +0.0400 (t, 4 seeds)." in page


def test_scores_of_all_seeds_in_one_run_are_paired_by_the_seeds_of_its_config(tmp_path):
    def outcomes(shift):
        return {"outcomes": [{"name": "o_proj", "scores": [0.7 + shift, 0.8, 0.9 + shift]}]}

    first = make_run(tmp_path, "a", outcomes(0.0), experiment="study", seeds=[1, 2, 3], rank=1)
    other = make_run(tmp_path, "b", outcomes(0.1), experiment="study", seeds=[2, 3, 4], rank=2)
    results, _ = compared(tmp_path, first, other)
    (test,) = results["tests"]
    assert (test["metric"], test["method"]) == ("outcomes.o_proj.score", "t, 2 seeds")
    # Seeds 2 and 3: (0.8, 0.8) and (0.9, 0.8).
    assert test["difference"]["mean"] == pytest.approx((0.8 - 0.8 + 0.8 - 0.9) / 2)


def test_predictions_of_the_same_examples_are_compared_example_by_example(tmp_path):
    bad = make_run(tmp_path, "bad", {"accuracy": 0.75}, wrong_at(*range(30)), seed=0, rank=1)
    good = make_run(tmp_path, "good", {"accuracy": 1.0}, wrong_at(), seed=0, rank=2)
    same = make_run(tmp_path, "same", {"accuracy": 0.75}, wrong_at(*range(30)), seed=0, rank=3)
    results, page = compared(tmp_path, bad, good, same)
    better, equal = results["tests"]
    assert better["method"] == "bootstrap, 120 examples"
    assert better["difference"]["mean"] == pytest.approx(0.25)
    assert better["p"] < 0.01
    assert better["p_holm"] == pytest.approx(2 * better["p"])
    assert equal["difference"] == {"mean": 0.0, "low": 0.0, "high": 0.0}
    assert equal["p_holm"] == 1.0
    assert "good accuracy +0.2500 (bootstrap, 120 examples)" in page
    assert "same accuracy" not in page[: page.index("</header>")]


def test_answers_in_words_are_compared_by_every_metric_of_their_task(tmp_path):
    references = [["a b c d"], ["e f g h"], ["i j k l"]]
    runs = []
    for name, texts in (("echo", ["a b c d", "e f g h", "i j k l"]), ("mute", ["", "", ""])):
        run = make_run(tmp_path, name, {"end": {"loss": 1.0}}, seed=0, tag=name)
        write_predictions(run, ["bleu", "exact_match"], texts, references)
        runs.append(run)
    results, _ = compared(tmp_path, *runs)
    assert {test["metric"]: test["difference"]["mean"] for test in results["tests"]} == {
        "bleu": pytest.approx(-100.0),
        "exact_match": -1.0,
    }


def test_runs_with_nothing_that_pairs_up_are_shown_and_not_tested(tmp_path):
    runs = [make_run(tmp_path, f"r{i}", {"accuracy": 0.5 + i}, seed=i, rank=i) for i in range(2)]
    results, page = compared(tmp_path, *runs)
    assert results["tests"] == []
    assert results["values"]["accuracy"]["r1"]["mean"] == 1.5
    assert "Nothing was tested" in page


def test_what_cannot_be_compared_is_told_in_one_sentence(tmp_path):
    good = make_run(tmp_path, "good", {"accuracy": 1.0}, seed=0)
    (tmp_path / "empty").mkdir()
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    (unfinished / "config.json").write_text("{}")
    old = tmp_path / "old"
    old.mkdir()
    (old / "results.json").write_text('{"accuracy": 1}')
    other = make_run(tmp_path, "other", {"accuracy": 1.0}, experiment="rank", seed=0)
    words = make_run(tmp_path, "words", {"speed": 1.0}, seed=1)
    cola = make_run(tmp_path, "cola", {"accuracy": 1.0}, seed=1, task={"name": "cola"})
    rte = make_run(tmp_path, "rte", {"accuracy": 1.0}, seed=1, task={"name": "rte"}, rank=2)
    with pytest.raises(ValueError, match=r"cola is a run on cola, but .*rte on rte: only"):
        compare.main([cola, rte], None)
    for directory, error, message in (
        (tmp_path / "nowhere", FileNotFoundError, "there is no directory"),
        (tmp_path / "empty", ValueError, "is no run: it has neither config.json nor results.json"),
        (unfinished, ValueError, "is an unfinished run"),
        (old, ValueError, "lacks experiment and config"),
        (other, ValueError, "is a run of finetune, but .* of rank"),
        (cola, ValueError, "is a run on no task, but .*cola on cola: only runs on one task"),
        (words, ValueError, "no two of the runs have a number in common; .*accuracy.*speed"),
        (good, ValueError, "two or more different directories"),
    ):
        with pytest.raises(error, match=message):
            compare.main([good, directory], None)
    second = make_run(tmp_path, "second", {"accuracy": 0.5}, seed=1)
    with pytest.raises(ValueError, match="unknown number of the runs 'acuracy'; nearest: 'accurac"):
        compare.main([good, second], None, ("acuracy",))
    with pytest.raises(ValueError, match="is one of the runs"):
        compare.main([good, second], good)


def test_the_command_line_says_what_is_wrong_and_shows_no_traceback(tmp_path):
    command = [sys.executable, "-m", "experiments.compare", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: a comparison needs two or more different directories")
