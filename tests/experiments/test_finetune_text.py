"""A run on real text: a decoder of 260 thousand parameters learns to describe restaurants."""

import json

import pytest

from configs import stories260k
from experiments import finetune_text
from lora_jax.data.split import spread
from tests.experiments.command import run, run_until

pytestmark = pytest.mark.needs_data

RUN = [
    "--config=configs/stories.py:e2e_nlg",
    "--config.targets='q_proj','v_proj','fc1','fc2'",
    "--config.encoding.length=192",
    "--config.encoding.bad_rows=skip",
    "--config.batch_size=4",
    "--config.steps=8",
    "--config.optimizer.warmup=0",
    "--config.train_examples=60",
    "--config.evaluation_examples=4",
    "--config.evaluation_batch_size=4",
    "--config.max_new_tokens=40",
    "--config.evaluate_every=4",
    "--config.checkpoint_every=2",
]


@pytest.fixture(scope="module")
def data(data_dir):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LORA_JAX_DATA", str(data_dir))
        yield data_dir


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("finetune_text") / "run"
    run("finetune_text", *RUN, f"--workdir={workdir}")
    return workdir


def read_rows(workdir):
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{name: row[name] for name in row if name != "seconds"} for row in rows]


@pytest.mark.slow
def test_the_loss_falls_and_all_is_written_down(finished):
    rows = read_rows(finished)
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, 9))
    results = json.loads((finished / "results.json").read_text())
    start, end = results["start"], results["end"]
    assert end["loss"] < start["loss"] - 0.5
    assert end["loss"] == [row["eval/loss"] for row in rows if "eval/loss" in row][-1]
    assert end["bleu_lowercase"]["low"] <= end["bleu_lowercase"]["mean"]
    assert results["test_examples"] == 4
    shown = results["examples"][0]
    assert shown["prompt"].startswith("name : ")
    assert shown["at the start"] != shown["at the end"]
    page = (finished / "report.html").read_text()
    assert page.count("<svg") == 2
    for part in ("bleu_lowercase", "before training", shown["reference"][:20]):
        assert part in page


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_bits(finished, tmp_path):
    workdir = tmp_path / "run"
    command = ["finetune_text", *RUN, f"--workdir={workdir}"]
    run_until((workdir / "checkpoints" / "2").exists, *command)
    assert "resuming after step" in run(*command)
    assert read_rows(workdir) == read_rows(finished)
    # The command that is written down names the workdir.
    results = [
        json.loads((path / "results.json").read_text().replace(str(path), "WORKDIR"))
        for path in (workdir, finished)
    ]
    assert results[0] == results[1]


@pytest.mark.slow
def test_the_plan_shows_what_is_trained_and_nothing_is_written(data, tmp_path):
    said = run("finetune_text", *RUN, "--dry_run", f"--workdir={tmp_path / 'run'}")
    for part in (
        "layers/q_proj/kernel",
        "GFLOP a step",
        "'frozen': 260032",
        "42,061 training, 630 test examples",
        "eatType : pub | priceRange : more than £30 | customer rating : 5 out of 5 | near : ",
        "⟦The Vaults pub near Café Adriatic has a 5 star rating.  Prices start at £30.</s>⟧",
    ):
        assert part in said
    assert not (tmp_path / "run").exists()


@pytest.fixture
def config(data):
    config = finetune_text.defaults()
    config.task.name = "gsm8k"
    config.model.path = stories260k.find()
    return config


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps = 0: at least 1 is needed"),
        ({"train": "ful"}, "choice of train 'ful'; nearest: 'full'"),
        ({"task.name": "gsm8"}, "nearest: 'gsm8k'"),
        ({"task.name": "cola"}, "'cola' has labels to predict"),
        ({"task.name": "sroie"}, "has a picture, but the model reads none"),
        ({"model.attention": "flash"}, "known: auto, plain, blocks, xla, cudnn"),
        ({"encoding.length": 600}, "encoding.length = 600, but the model reads at most 512"),
        ({"encoding.length": 100}, "do not fit into 100; make `length` larger"),
        ({"encoding.template": "chatt"}, "nearest: 'chat'"),
        ({"targets": ("q_porj",), "encoding.bad_rows": "skip"}, "q_proj"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_written(
    config, settings, message, tmp_path
):
    config.train_examples = config.evaluation_examples = 12
    config.update_from_flattened_dict(settings)
    with pytest.raises(ValueError, match=message):
        finetune_text.main(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_records_are_spread_over_a_file_that_may_be_sorted():
    assert spread(list(range(10)), 4) == [0, 2, 5, 7]
    assert spread(list(range(3)), 0) == [0, 1, 2]
    assert spread(list(range(3)), 9) == [0, 1, 2]
