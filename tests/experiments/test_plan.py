"""Plans of steps on devices that are not there."""

import json
import resource
import time

import pytest
from ml_collections import ConfigDict

from configs.plan_gpt3_175b import get_config
from experiments import plan, target_modules
from experiments.plan_report import StepPlan, summary
from lora_jax.analysis.memory import Memory
from lora_jax.analysis.products import Products
from tests.experiments.command import run

LAYERS, DIM, VOCABULARY, RANK = 3, 64, 500, 4
TINY = [
    "--config=configs/plan_gpt3_175b.py",
    "--config.model.name=tiny",
    "--config.length=32",
    "--config.batch_size=16",
    "--chips=v5e,H100",
]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plan")
    fields = {
        "model_type": "gpt2",
        "vocab_size": VOCABULARY,
        "n_embd": DIM,
        "n_layer": LAYERS,
        "n_head": 4,
        "n_positions": 32,
        "layer_norm_epsilon": 1e-5,
        "activation_function": "gelu_new",
    }
    (folder / "config.json").write_text(json.dumps(fields))
    return folder


@pytest.fixture(scope="module")
def planned(tiny, tmp_path_factory):
    """A plan for sixteen devices, and what it said."""
    workdir = tmp_path_factory.mktemp("plan") / "run"
    flags = [f"--config.model.path={tiny}", "--config.mesh.fsdp=16", f"--workdir={workdir}"]
    said = run("plan", *TINY, *flags)
    return json.loads((workdir / "results.json").read_text()), said, workdir


def test_parameters_and_checkpoint_are_those_of_the_adapter(planned):
    results, said, _ = planned
    factors = 2 * LAYERS * RANK * (DIM + DIM)  # A and B of q and v
    assert results["trainable"] == factors
    assert results["adapter_bytes"] == 4 * factors
    # Two moments beside them, and a handful of counters.
    assert 0 <= results["checkpoint_bytes"] - 3 * 4 * factors < 64
    assert f"{factors:,} trainable" in said


def test_each_device_holds_its_part_of_the_weights(planned):
    memory = planned[0]["memory"]
    kernels = LAYERS * (4 * DIM * DIM + 2 * DIM * 4 * DIM)
    small = LAYERS * (4 + 9) * DIM + 2 * DIM  # norms and biases, which are not split over fsdp
    tables = (VOCABULARY + 32) * DIM
    assert memory["frozen"] == 2 * ((kernels + tables) / 16 + small)  # bfloat16
    assert memory["peak"] >= memory["frozen"] + memory["temporaries"]
    assert memory["kept"] == 2 * LAYERS * 32 * DIM  # one row of hidden states for each layer


def test_weights_are_gathered_and_the_work_is_shared(planned):
    results, said, _ = planned
    kinds = {row["kind"]: row for row in results["collectives"]}
    kernels = LAYERS * (4 * DIM * DIM + 2 * DIM * 4 * DIM)
    # In bfloat16, forward, backward, and some in between to compute a layer again.
    tables = 2 * (VOCABULARY + 32) * DIM
    assert 2 * 2 * kernels <= kinds["all-gather"]["nbytes"] <= 3 * 2 * kernels + 3 * tables
    assert tuple(results["largest_all_gather"]["shape"]) == (VOCABULARY, DIM)
    assert results["flops"] == 16 * results["work"]["flops"]
    assert "16 devices (data=1 x fsdp=16 x tensor=1)" in said


def test_the_time_on_each_chip_is_its_longest_term(planned):
    for row in planned[0]["rooflines"]:
        terms = {name: row[name] for name in ("compute", "memory", "interconnect")}
        assert row["seconds"] == max(terms.values()) == terms[row["bound"]]
    assert [row["chip"] for row in planned[0]["rooflines"]] == ["v5e", "H100"]


def test_the_page_says_what_the_terminal_says(planned):
    _, said, workdir = planned
    page = (workdir / "report.html").read_text()
    for title in ("Memory of each device", "Collectives of a step", "Time of a step"):
        assert title in said
        assert title in page


@pytest.fixture
def config(tiny):
    config = plan.defaults()
    config.model.path = str(tiny)
    config.length = 32
    config.batch_size = 16
    config.mesh.data = 8
    return config


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({}, {"chips": ["H300"]}, r"unknown chip 'H300'; nearest: H[12]00"),
        ({"mesh.data": 3}, {"devices": 8}, r"mesh data=3 x fsdp=1 x tensor=1 needs 3 devices"),
        ({"batch_size": 12}, {}, r"batch_size = 12 does not divide by .* = 8; 8 or 16 would"),
        ({"model.path": "gpt3-175"}, {}, r"no published shape of that name; nearest: gpt3-175B"),
        ({"train": "lara"}, {}, r"train = 'lara'; nearest: lora"),
        ({"targets": ("q_prj",)}, {}, r"q_proj"),
        ({"length": 64}, {}, r"the batch is 64 tokens long, but the model's context is 32"),
        ({"model.quantize": "nf5"}, {}, r"unknown quantisation 'nf5'; known: int8, nf4"),
    ],
)
def test_bad_input_is_refused_before_anything_is_compiled(
    config, monkeypatch, changes, options, message
):
    monkeypatch.setattr(plan, "pretend", lambda devices: None)  # the tests have eight
    config.update_from_flattened_dict(changes)
    with pytest.raises(ValueError, match=message):
        plan.main(config, None, **options)


def test_a_config_of_several_runs_is_refused():
    with pytest.raises(ValueError, match=r"has no train, targets, .*: a plan is of one run"):
        plan.main(target_modules.defaults(), None)


def test_micro_batches_need_less_memory_for_the_same_work(tiny, tmp_path):
    # In processes of their own: a program that the cache holds would not be seen partitioned.
    results = {}
    for parts in (1, 2):
        workdir = tmp_path / str(parts)
        mesh = ["--config.mesh.data=8", "--config.mesh.fsdp=1"]
        flags = [f"--config.micro_batches={parts}", f"--workdir={workdir}"]
        run("plan", *TINY, f"--config.model.path={tiny}", *mesh, *flags)
        results[parts] = json.loads((workdir / "results.json").read_text())
    assert results[2]["memory"]["temporaries"] < results[1]["memory"]["temporaries"]
    assert results[2]["flops"] == results[1]["flops"]


def test_a_mesh_that_does_not_divide_a_weight_is_refused(config, monkeypatch, tiny, tmp_path):
    monkeypatch.setattr(plan, "pretend", lambda devices: None)
    fields = json.loads((tiny / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(fields | {"n_embd": 60}))
    config.model.path = str(tmp_path)
    config.mesh = ConfigDict({"data": 1, "fsdp": 8})
    with pytest.raises(ValueError, match=r"shape \(.*60.*\): axis \d does not divide by mesh"):
        plan.main(config, None)


def test_a_weight_in_four_bits_counts_as_one(config):
    exact = count(config)
    config.model.quantize = "nf4"
    assert count(config) == exact


@pytest.mark.parametrize(("rank", "published"), [(1, 4.7e6), (4, 18.9e6)])
def test_gpt_3_has_as_many_parameters_as_published(rank, published):
    """Hu et al., arXiv 2106.09685, table 4."""
    config = get_config()
    config.method.rank = rank
    found = plan.describe_run(config, plan.describe_base(config.model))
    trained = plan.count(found.variables, found.labels, trains=True)
    assert trained == rank * 2 * 96 * (12288 + 12288)
    assert trained == pytest.approx(published, rel=0.005)
    assert plan.count(found.variables, found.labels, trains=False) == pytest.approx(175e9, rel=0.01)


def count(config):
    found = plan.describe_run(config, plan.describe_base(config.model))
    return plan.count(found.variables, found.labels, trains=False)


def test_work_that_several_devices_do_is_told():
    shared = StepPlan(
        title="it",
        mesh={"data": 2},
        rows=2,
        length=8,
        trainable=3,
        frozen=5,
        adapter_bytes=12,
        checkpoint_bytes=36,
        memory=Memory(*[0] * 8),
        flops=100,
        work=Products(100, 0),
        collectives=[],
        rooflines=[],
        unknown_loops=["while.7"],
        compile_seconds=1.0,
    )
    said = "\n".join(summary(shared))
    assert "(50% of which no other device does too)" in said
    assert "counted once, as they end by their data: while.7" in said


@pytest.mark.slow
@pytest.mark.parametrize("devices", [64, 512])
def test_gpt_3_is_planned_in_minutes_and_little_memory(devices, tmp_path):
    started = time.monotonic()
    flags = [f"--config.batch_size={devices}", f"--config.mesh.data={devices // 64}"]
    run("plan", "--config=configs/plan_gpt3_175b.py", *flags, f"--workdir={tmp_path / 'run'}")
    assert time.monotonic() - started < 600
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 20 * 2**20  # KiB
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["trainable"] == 18_874_368
    assert 10e6 < results["adapter_bytes"] < 100e6
    assert results["memory"]["frozen"] > 2 * 174e9 / 64


@pytest.mark.slow
def test_a_config_of_finetune_is_planned_as_it_stands(minilm_dir):
    said = run("plan", "--config=configs/finetune.py", "--devices=4", "--chips=A100")
    assert "on 4 devices (data=4 x fsdp=1 x tensor=1)" in said
    assert "78,348 trainable" in said
    assert "Collectives of a step" in said
