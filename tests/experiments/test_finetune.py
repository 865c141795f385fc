"""One run, end to end in small on the real encoder."""

import json

import pytest

from configs.finetune import get_config
from experiments import finetune, finetune_text
from tests.experiments.command import TINY, run, run_until

RUN = [
    "--config=configs/finetune.py",
    *TINY,
    "--config.targets='q_proj','v_proj'",
    "--config.steps=6",
    "--config.evaluate_every=3",
    "--config.checkpoint_every=2",
]


@pytest.fixture(scope="module")
def finished(minilm_dir, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("finetune") / "run"
    run("finetune", *RUN, f"--workdir={workdir}")
    return workdir


def read_rows(workdir):
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{name: row[name] for name in row if name != "seconds"} for row in rows]


@pytest.mark.slow
def test_it_logs_every_step_and_evaluates_when_asked(finished):
    rows = read_rows(finished)
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3, 4, 5, 6]
    assert [row["step"] for row in rows if "eval/accuracy" in row] == [3, 6]
    results = json.loads((finished / "results.json").read_text())
    assert results["accuracy"] == rows[-1]["eval/accuracy"]
    assert results["loss"] == rows[-2]["loss"]
    page = (finished / "report.html").read_text()
    assert "<svg" in page
    assert f"accuracy {results['start_accuracy']:.4f} at the start" in page


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_bits(finished, tmp_path):
    workdir = tmp_path / "run"
    command = ["finetune", *RUN, f"--workdir={workdir}"]
    run_until((workdir / "checkpoints" / "2").exists, *command)
    said = run(*command)
    assert "resuming after step" in said
    assert read_rows(workdir) == read_rows(finished)


@pytest.mark.slow
def test_everything_that_may_be_asked_of_a_run_at_once(minilm_dir, tmp_path):
    workdir = tmp_path / "run"
    settings = [
        "--config.optimizer.name=muon",
        "--config.optimizer.schedule=wsd",
        "--config.optimizer.no_decay=('bias',)",
        "--config.optimizer.lora_plus=4.0",
        "--config.optimizer.ema=0.5",
        "--config.optimizer.spike=9.0",
        "--config.evaluate_average=True",
        "--config.best.metric=accuracy",
        "--config.best.patience=3",
        "--config.evaluate_every=1",
        "--config.micro_batches=2",
        "--config.on_nonfinite=skip",
        "--tensorboard",
        "--profile",
    ]
    run("finetune", *RUN, *settings, f"--workdir={workdir}")
    for name in ("best", "tensorboard", "profile", "results.json", "report.html"):
        assert (workdir / name).exists(), name
    size = sum(path.stat().st_size for path in (workdir / "best").rglob("*") if path.is_file())
    assert size < 4 * 2**20


@pytest.mark.slow
def test_no_base_weight_is_written(finished):
    size = sum(path.stat().st_size for path in finished.rglob("*") if path.is_file())
    assert size < 22_565_376  # a byte a parameter; the weights take four


@pytest.mark.slow
def test_the_plan_is_printed_and_nothing_is_written(minilm_dir, tmp_path):
    said = run("finetune", *RUN, "--dry_run", f"--workdir={tmp_path / 'run'}")
    parts = ("layers/q_proj/kernel", "GFLOP a step", "[CLS]", "'frozen': 22565376")
    for part in (*parts, "4.00e-04 in step 5", "evaluation every 3 steps; checkpoint every 2"):
        assert part in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--config.on_nonfinite=stp", "error: on_nonfinite = 'stp'; nearest: stop"),
        (
            "--config.optimizr.warmup=3",
            "error: the config lacks a field 'optimizr'; nearest: 'optimizer'\n",
        ),
    ],
)
def test_a_mistake_is_explained_in_one_line_and_nothing_is_written(
    flag, message, minilm_dir, tmp_path
):
    said = run("finetune", *RUN, f"--workdir={tmp_path / 'run'}", flag, succeeds=False)
    assert message in said
    assert "Traceback" not in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train": "lroa"}, "nearest: lora"),
        ({"buckets": (4, 64)}, r"buckets of \[64\] tokens: they have from 1 to 8"),
        ({"micro_batches": 3}, "batch_size = 8 does not divide by micro_batches x mesh"),
        ({"targets": ("q_proj", "o_prjo")}, "o_proj"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_written(
    settings, message, minilm_dir, tmp_path
):
    config = get_config()
    config.task.options.update(train_per_topic=4, test_per_topic=2)
    config.update(length=8, batch_size=8, evaluation_batch_size=24)
    config.update_from_flattened_dict(settings)
    with pytest.raises(ValueError, match=message):
        finetune.main(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.needs_data
def test_pairs_of_sentences_are_read_with_their_scores(minilm_dir, data_dir, monkeypatch):
    monkeypatch.setenv("LORA_JAX_DATA", str(data_dir))
    said = run("finetune", "--config=configs/glue.py:stsb", "--dry_run")
    assert "5,749 training, 1,500 test examples" in said
    assert "[CLS] a plane is taking off . [SEP] an air plane is taking off . [SEP] ([PAD])" in said
    assert "its label: 5.0" in said


@pytest.mark.parametrize("experiment", [finetune, finetune_text])
def test_whether_a_run_may_go_on_is_known_before_anything_is_loaded(experiment, tmp_path):
    config = experiment.defaults()  # names no model: nothing can be loaded
    with pytest.raises(ValueError, match=r"'must', and .*checkpoints holds no checkpoint"):
        experiment.main(config, tmp_path, resume="must")
    (tmp_path / "checkpoints" / "7").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"'never', and .* holds a checkpoint of step 7: choose"):
        experiment.main(config, tmp_path, resume="never")
