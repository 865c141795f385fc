"""The study, end to end in small on the real encoder."""

import json
import signal

import pytest

from tests.experiments.command import TINY, run, run_until, start

STUDY = [
    "--config=configs/quickstart.py",
    *TINY,
    "--config.target_sets=o_proj",
    "--config.seeds=0,1",
    "--config.steps=3",
    "--config.latency.rounds=3",
]


@pytest.fixture(scope="module")
def finished(minilm_dir, tmp_path_factory):
    """A study from start to end, and what it printed."""
    workdir = tmp_path_factory.mktemp("study") / "run"
    return workdir, run("target_modules", *STUDY, f"--workdir={workdir}")


def read_rows(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def read_outcomes(workdir):
    results = json.loads((workdir / "results.json").read_text())
    return {outcome["name"]: outcome for outcome in results["outcomes"]}


@pytest.mark.slow
def test_it_compares_the_sets_with_the_head_alone_and_with_full_fine_tuning(finished):
    outcomes = read_outcomes(finished[0])
    head, rank, dim, layers = 12 * 384 + 12, 8, 384, 6
    assert {name: outcome["trainable"] for name, outcome in outcomes.items()} == {
        "head only": head,
        "o_proj": head + layers * rank * (dim + dim),
        "full fine-tuning": head + 22_565_376,
    }
    for name, outcome in outcomes.items():
        assert name in finished[1]
        assert len(outcome["scores"]) == 2
        assert outcome["score"]["mean"] == pytest.approx(sum(outcome["scores"]) / 2)
        assert len(outcome["unmerged"]["seconds"]) == len(outcome["merged"]["seconds"]) == 3


@pytest.mark.slow
def test_the_log_holds_every_step_of_every_run(finished):
    rows = read_rows(finished[0])
    steps = [(row["choice"], row["seed"], row["step"]) for row in rows if "loss" in row]
    assert steps == [
        (choice, seed, step)
        for choice in ("head only", "o_proj", "full fine-tuning")
        for seed in (0, 1)
        for step in (1, 2, 3)
    ]
    scores = {(row["choice"], row["seed"]): row.get("eval/accuracy") for row in rows}
    for name, outcome in read_outcomes(finished[0]).items():
        assert outcome["scores"] == [scores[name, 0], scores[name, 1]]


@pytest.mark.slow
def test_the_report_recommends_a_set_and_says_how_to_repeat_it(finished):
    page = (finished[0] / "report.html").read_text()
    assert "Recommended: o_proj." in page
    assert "--config.target_sets=o_proj" in page
    assert "<svg" in page
    assert "http" not in page.replace("http.", "")  # nothing is fetched from elsewhere


@pytest.mark.slow
def test_a_killed_study_goes_on_where_it_was_and_ends_the_same(finished, tmp_path):
    log = tmp_path / "run" / "metrics.jsonl"
    command = ["target_modules", *STUDY, f"--workdir={tmp_path / 'run'}"]
    run_until(lambda: log.exists() and "o_proj" in log.read_text(), *command)
    before = log.read_text()
    with log.open("a") as file:  # as if it had been killed while it wrote
        file.write('{"choice": "o_proj", "seed": 1, "step": 1, "loss": 2.5}\n{"choice": "o_p')
    said = run(*command)
    assert "head only: 2 seeds done before" in said
    assert log.read_text().startswith(before)
    measured = {"seconds"}
    assert [
        {k: v for k, v in row.items() if k not in measured} for row in read_rows(log.parent)
    ] == [{k: v for k, v in row.items() if k not in measured} for row in read_rows(finished[0])]


@pytest.mark.slow
def test_ctrl_c_says_how_to_go_on(minilm_dir, tmp_path):
    log = tmp_path / "run" / "metrics.jsonl"
    flags = [*STUDY, "--config.steps=10000", f"--workdir={tmp_path / 'run'}"]
    with start("target_modules", *flags) as process:
        next(line for line in process.stdout if line.startswith("step 1/"))
        process.send_signal(signal.SIGINT)
        said = process.stdout.read()
    assert process.returncode == 130
    assert "stopped after step" in said
    assert f"Finished runs are in {log}" in said
    assert log.read_text() == ""


@pytest.mark.slow
def test_another_study_in_the_same_workdir_is_refused(finished):
    before = (finished[0] / "config.json").read_text()
    said = run(
        "target_modules", *STUDY, "--config.steps=4", f"--workdir={finished[0]}", succeeds=False
    )
    assert "steps: found 3, asked for 4" in said
    assert (finished[0] / "config.json").read_text() == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--config.target_sets=q_porj+v_proj", "q_proj"),
        ("--config.method.rnak=4", 'Did you mean "rank"'),
        ("--config.task.name=docstring", "nearest: 'docstrings'"),
        ("--config.method.rank=0", "rank"),
        ("--config.model.sha256=00", "has sha256 53aa"),
        ("--config.seeds=x", "different whole numbers"),
        ("--config.steps=1", "at least 2"),
        ("--wrokdir=x", "Did you mean: workdir"),
    ],
)
def test_a_mistake_is_explained_in_one_line_and_nothing_is_written(
    flag, message, minilm_dir, tmp_path
):
    workdir = tmp_path / "run"
    said = run("target_modules", *STUDY, f"--workdir={workdir}", flag, succeeds=False)
    assert message in said
    assert "Traceback" not in said
    assert not workdir.exists()


@pytest.mark.slow
def test_the_plan_names_the_sites_the_cost_and_an_example(minilm_dir, tmp_path):
    said = run("target_modules", *STUDY, "--dry_run", f"--workdir={tmp_path / 'run'}")
    assert "3 choices x 2 seeds x 3 steps of 4 examples of 8 tokens" in said
    assert "layers/o_proj/kernel" in said
    assert "GFLOP a step" in said
    assert "[CLS]" in said
    assert not (tmp_path / "run").exists()
