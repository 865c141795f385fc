"""The study, end to end in small on the real encoder."""

import json
import signal
import time

import pytest
from ml_collections import ConfigDict

from configs import quickstart
from configs import target_modules as target_modules_config
from experiments import target_modules
from experiments.target_modules_choices import rates_chosen_before
from lora_jax.reports import write_report
from tests.experiments.command import TINY, run, run_until, start

STUDY = [
    "--config=configs/quickstart.py",
    *TINY,
    "--config.validation_examples=8",
    "--config.target_sets=o_proj,all-linear",
    "--config.controls=rank,parameters,latency",
    "--config.equal_parameters.rank=1",
    "--config.equal_latency.ranks=(1,8)",
    "--config.equal_latency.over_base=9.0",
    "--config.rates.lora=(0.001,0.1)",
    "--config.members=4",
    "--config.seeds=0,1",
    "--config.steps=3",
    "--config.latency.rounds=3",
]


def without(*fields):
    """The flags of the study but for some fields: of a field with several names, flags add up."""
    return [
        flag for flag in STUDY if flag.partition("=")[0].removeprefix("--config.") not in fields
    ]


@pytest.fixture(scope="module")
def finished(minilm_dir, tmp_path_factory):
    """A study from start to end, and what it printed."""
    workdir = tmp_path_factory.mktemp("study") / "run"
    return workdir, run("target_modules", *STUDY, f"--workdir={workdir}")


RUN = ("name", "rank", "rate", "seed", "part", "step")  # what tells a row from another


def read_rows(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def read_results(workdir):
    return json.loads((workdir / "results.json").read_text())


HEAD, RANK, DIM, FF, LAYERS = 12 * 384 + 12, 8, 384, 1536, 6
O_PROJ = LAYERS * (DIM + DIM)  # parameters of one rank
ALL = LAYERS * (4 * (DIM + DIM) + 2 * (DIM + FF))


@pytest.mark.slow
def test_sets_are_compared_under_three_controls_and_with_the_references(finished):
    results = read_results(finished[0])
    sizes = {
        control: {(o["name"], o["rank"]): o["parameters"] for o in outcomes}
        for control, outcomes in results["controls"].items()
    }
    assert sizes["rank"] == {("o_proj", 8): 8 * O_PROJ, ("all-linear", 8): 8 * ALL}
    assert sizes["parameters"] == {("o_proj", 9): 9 * O_PROJ, ("all-linear", 1): ALL}
    # With ten times the latency of the base to spend, each has its largest rank that was timed.
    assert sizes["latency"] == {("o_proj", 9): 9 * O_PROJ, ("all-linear", 8): 8 * ALL}
    references = {o["name"]: o["parameters"] for o in results["references"]}
    assert references == {"head only": 0, "full fine-tuning": 22_565_376}
    for outcome in (*results["references"], *results["controls"]["rank"]):
        assert outcome["name"] in finished[1]
        assert len(outcome["scores"]) == 2
        assert outcome["score"]["mean"] == pytest.approx(sum(outcome["scores"]) / 2)
    timed = {"base", "o_proj r1", "o_proj r8", "o_proj r9", "all-linear r1", "all-linear r8"}
    assert set(results["latency"]) == timed | {"o_proj, merged", "all-linear, merged"}
    assert {len(times["first"]["seconds"]) for times in results["latency"].values()} == {3}


@pytest.mark.slow
def test_rates_are_chosen_on_the_validation_part_alone(finished):
    runs = {}
    for row in read_rows(finished[0]):
        if "validation/loss" in row:
            assert not any(name.startswith("eval/") for name in row)
            runs[row["name"], row["rate"]] = row["validation/loss"]
    rates = read_results(finished[0])["rates"]
    for name in ("o_proj", "all-linear"):
        losses = {rate: runs[name, rate] for rate in (0.001, 0.1)}
        assert rates[name]["chosen"] == min(losses, key=losses.get)
        assert rates[name]["losses"] == {str(rate): loss for rate, loss in losses.items()}
    tested = {(r["name"], r["rate"]) for r in read_rows(finished[0]) if r["part"] == "test"}
    assert tested == {(name, rate["chosen"]) for name, rate in rates.items()}


@pytest.mark.slow
def test_the_log_holds_every_step_of_every_run(finished):
    steps = {}
    for row in read_rows(finished[0]):
        run = row["name"], row["rank"], row["rate"], row["seed"], row["part"]
        steps.setdefault(run, []).append(row.get("step"))
    assert all(found == [1, 2, 3, None] for found in steps.values())
    tested = [run for run in steps if run[4] == "test"]
    assert len(tested) == 2 * (2 + 2 + 2)  # seeds; ranks of either set, and the references


@pytest.mark.slow
def test_merging_changes_no_score(finished):
    for outcome in read_results(finished[0])["controls"]["rank"]:
        assert outcome["unmerged_score"] == pytest.approx(outcome["scores"][0])


@pytest.mark.slow
def test_the_report_has_a_table_a_control_published_claims_and_how_to_repeat_it(finished):
    page = (finished[0] / "report.html").read_text()
    for heading in ("At equal rank", "At equal parameters", "At equal latency", "Within a budget"):
        assert f"<h2>{heading}</h2>" in page
    assert "Amazon Science" in page
    assert "--config.target_sets=o_proj,all-linear" in page
    assert "<svg" in page
    assert "http" not in page.replace("http.", "")  # nothing is fetched from elsewhere


@pytest.mark.slow
def test_a_killed_study_goes_on_where_it_was_and_ends_the_same(finished, tmp_path):
    workdir = tmp_path / "run"
    log = workdir / "metrics.jsonl"
    flags = [*without("controls"), "--config.controls=rank"]
    command = ["target_modules", *flags, f"--workdir={workdir}"]
    workdir.mkdir()
    config = json.loads((finished[0] / "config.json").read_text()) | {"controls": ["rank"]}
    (workdir / "config.json").write_text(json.dumps(config))
    # What is timed once is not timed again.
    (workdir / "latency.json").write_text((finished[0] / "latency.json").read_text())
    run_until(lambda: log.exists() and '"part": "test"' in log.read_text(), *command)
    before = log.read_text()
    whole = before[: before.rindex("\n") + 1]
    with log.open("a") as file:  # as if it had been killed while it wrote
        file.write('{"name": "o_proj", "rank": 8, "rate": 0.001, "seed": 1, "part": "te')
    said = run(*command)
    assert "runs done before" in said
    assert "timing the base" not in said
    assert log.read_text().startswith(whole)
    # The other study, which nothing stopped, has the same runs and those of two more controls.
    same = {json.dumps([row.get(name) for name in RUN]): row for row in read_rows(finished[0])}
    for row in read_rows(workdir):
        other = same[json.dumps([row.get(name) for name in RUN])]
        # Members of a program may be others than before, and sums may round otherwise.
        assert row == {
            name: pytest.approx(value, rel=1e-5) if isinstance(value, float) else value
            for name, value in other.items()
        }
    chosen = lambda workdir: {n: r["chosen"] for n, r in read_results(workdir)["rates"].items()}
    assert chosen(workdir) == chosen(finished[0])


@pytest.mark.slow
def test_ctrl_c_says_how_to_go_on(minilm_dir, tmp_path):
    log = tmp_path / "run" / "metrics.jsonl"
    flags = [
        *without("target_sets", "controls"),
        "--config.target_sets=o_proj",
        "--config.controls=rank",
        "--config.steps=10000",
        f"--workdir={tmp_path / 'run'}",
    ]
    with start("target_modules", *flags) as process:
        next(line for line in process.stdout if line.startswith("timing the base"))
        while not log.exists():  # training begins
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        said = process.stdout.read()
    assert process.returncode == 130
    assert f"Finished runs are in {log}" in said
    assert log.read_text() == ""


def tiny(**changes):
    """The config of the study above, changed."""
    config = quickstart.get_config()
    config.update_from_flattened_dict(
        {
            "task.options.train_per_topic": 4,
            "task.options.test_per_topic": 2,
            "length": 8,
            "batch_size": 4,
            "validation_examples": 8,
            "target_sets": ("o_proj", "all-linear"),
            "controls": ("rank", "parameters"),
            "equal_parameters.rank": 1,
            "rates.lora": (0.001, 0.1),
            "members": 4,
            "seeds": (0, 1),
            "steps": 3,
            **changes,
        }
    )
    return config


@pytest.mark.slow
def test_another_study_in_the_same_workdir_is_refused(finished):
    before = (finished[0] / "config.json").read_text()
    with pytest.raises(ValueError, match="steps: found 3, asked for 4"):
        target_modules.main(tiny(steps=4), finished[0])
    assert (finished[0] / "config.json").read_text() == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flag", "message"),
    [("--config.method.rnak=4", "nearest: 'rank'"), ("--config.seeds=x", "different whole")],
)
def test_a_mistake_is_explained_in_one_line(flag, message, minilm_dir, tmp_path):
    workdir = tmp_path / "run"
    said = run("target_modules", *STUDY, f"--workdir={workdir}", flag, succeeds=False)
    assert message in said
    assert "Traceback" not in said
    assert not workdir.exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("target_sets", ("q_porj+v_proj",), "q_proj"),
        ("task.name", "docstring", "nearest: 'docstrings'"),
        ("method.rank", 0, "rank"),
        ("model.sha256", "00", "has sha256 53aa"),
        ("steps", 0, "at least 1"),
        ("controls", ("rnk",), "unknown control 'rnk'; nearest: 'rank'"),
        ("metric", "matthew", "unknown metric of task 'sst2' 'matthew'"),
        ("validation_examples", 0, "no validation part"),
    ],
)
def test_what_no_study_could_use_is_refused_and_nothing_is_written(
    field, value, message, minilm_dir, tmp_path, monkeypatch
):
    folder = tmp_path / "data" / "glue" / "SST-2"  # read sooner than docstrings
    folder.mkdir(parents=True)
    for part, count in (("train", 24), ("dev", 6)):
        rows = [f"film {i}\t{i % 2}" for i in range(count)]
        (folder / f"{part}.tsv").write_text("\n".join(["sentence\tlabel", *rows]) + "\n")
    monkeypatch.setenv("LORA_JAX_DATA", str(tmp_path / "data"))
    config = tiny()
    config.task = ConfigDict({"name": "sst2", "options": {}})
    config.update_from_flattened_dict({field: value})
    with pytest.raises(ValueError, match=message):
        target_modules.main(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("seeds", (), "name one or more different whole numbers"),
        ("seeds", (1, 1), "name one or more different whole numbers"),
        ("rate_seeds", (), "rate_seeds = "),
        ("controls", (), "no controls"),
        ("target_sets", (), "no target_sets"),
        ("rates.lora", (), "positive learning rates"),
        ("rates.full", (0.0,), "positive learning rates"),
    ],
)
def test_a_study_of_nothing_is_refused_before_anything_is_read(field, value, message):
    config = target_modules.defaults()
    config.model.path = "not looked for"
    config.update_from_flattened_dict({field: value})
    with pytest.raises(ValueError, match=message):
        target_modules.main(config, None)


def test_rates_of_a_run_that_has_chosen_none_are_refused_before_anything_is_trained(tmp_path):
    config = target_modules.defaults()
    for name, experiment, rates in (("other", "rank", {}), ("fewer", "target_modules", {"fc1": 1})):
        (tmp_path / name).mkdir()
        write_report(tmp_path / name, experiment, {}, {"rates": rates}, title=name, sections=[])
    config.rates_of = str(tmp_path / "other")
    with pytest.raises(ValueError, match="is a run of rank, not of target_modules"):
        rates_chosen_before(config, ["o_proj"])
    config.rates_of = str(tmp_path / "fewer")
    with pytest.raises(ValueError, match=r"unknown choice with a rate in .* 'o_proj'"):
        rates_chosen_before(config, ["o_proj"])
    config.rates_of = str(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="there is no directory"):
        rates_chosen_before(config, ["o_proj"])


@pytest.mark.slow
def test_the_plan_names_the_sites_the_cost_and_an_example(minilm_dir, capsys):
    target_modules.main(tiny(), None)
    said = capsys.readouterr().out
    assert "2 sets x 2 seeds, 4 at a time, 3 steps of 4 examples of 8 tokens" in said
    assert "equal parameters: o_proj r9 (41,472), all-linear r1 (41,472)" in said
    assert "layers/o_proj/kernel" in said
    assert "[CLS]" in said


@pytest.mark.slow
@pytest.mark.needs_data
def test_a_decoder_is_timed_at_its_first_token_and_at_each_later_one(data_dir, tmp_path):
    workdir = tmp_path / "run"
    changes = {
        "length": 224,  # no text is longer
        "batch_size": 2,
        "steps": 2,
        "members": 2,
        "evaluation_batch_size": 2,
        "train_examples": 16,
        "validation_examples": 2,
        "test_examples": 2,
        "latency.new_tokens": 4,
        "latency.rounds": 3,
    }
    config = target_modules_config.get_config("e2e")
    config.update(rates={"lora": (0.01,), "full": (0.001,)}, controls=("rank",), seeds=(0, 1))
    config.target_sets = ("o_proj", "fc1+fc2")
    config.model.path = str(data_dir / "stories260k" / "stories260K.bin")
    with config.unlocked():
        config.task.options.directory = str(data_dir / "e2e_nlg")
    config.update_from_flattened_dict(changes)
    target_modules.main(config, workdir)
    results = read_results(workdir)
    assert [o["name"] for o in results["references"]] == ["base as it is", "full fine-tuning"]
    sizes = {o["name"]: o["parameters"] for o in results["controls"]["rank"]}
    assert sizes == {"o_proj": 8 * 5 * 128, "fc1+fc2": 8 * 5 * 3 * (64 + 172)}
    for times in results["latency"].values():
        assert len(times["first"]["seconds"]) == len(times["token"]["seconds"]) == 3
    page = (workdir / "report.html").read_text()
    assert "TTFT p95" in page
    assert "TPOT p95" in page
