"""The study of subspaces, end to end in small on the real encoder, and on adapters in files."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lora_jax as lora
from configs import subspace as subspace_config
from experiments import subspace
from lora_jax import hub
from tests.experiments.command import TINY, run

FIXTURES = Path(__file__).parent.parent / "fixtures"


STUDY = [
    "--config=configs/subspace.py",
    *TINY,
    "--config.targets=q_proj",
    "--config.ranks=2,4",
    "--config.seeds=0,1",
    "--config.steps=2",
]


@pytest.fixture(scope="module")
def finished(minilm_dir, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("study") / "run"
    run("subspace", *STUDY, f"--workdir={workdir}")
    return workdir


def read(workdir):
    return json.loads((workdir / "results.json").read_text())


@pytest.mark.slow
def test_it_compares_ranks_seeds_starts_and_random_directions(finished):
    results = read(finished)
    assert [one["name"] for one in results["adapters"]] == [
        f"r{rank}-seed{seed}" for rank in (2, 4) for seed in (0, 1)
    ]
    phi = np.load(finished / "phi.npz")
    assert phi["ranks|2 and 4|a|layers/q_proj/kernel"].shape == (2, 6, 2, 4)
    assert phi["seeds|4|in|layers/q_proj/kernel"].shape == (1, 6, 4, 4)
    assert phi["against random|4|in|layers/q_proj/kernel"].shape == (2, 6, 4, 4)
    # Two steps at this rate leave A where it started, and two seeds started apart.
    assert phi["own start|4|a|layers/q_proj/kernel"][..., -1, -1].min() > 0.9
    assert phi["seeds|4|a|layers/q_proj/kernel"][..., -1, -1].max() < 0.1
    rows = {(r["kind"], r["side"], r["directions"]): r for r in results["shared"]}
    row = rows["low rank against high rank, same seed, r = 2 and 4", "A", "2, 4"]
    assert row["chance"] == 4 / 384
    assert len(row["scores"]) == 2
    for one in results["amplification"]:
        assert one["in_change"]["mean"] < one["in_weight"]["mean"]
        assert one["by_chance"]["mean"] == pytest.approx(one["in_random"]["mean"], rel=0.5)


@pytest.mark.slow
def test_the_page_sets_published_figures_apart(finished):
    page = (finished / "report.html").read_text()
    assert "published: Hu et al. 2021, table 7" in page
    assert "chance that is subtracted: 0.0026 at (1, 1), 0.010 at (2, 4), d = 384" in page


@pytest.mark.slow
def test_finished_adapters_are_kept_and_compared_again_as_peft_files(finished, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(finished, again)
    shutil.rmtree(again / "adapters" / "r4-seed1")
    said = run("subspace", *STUDY, f"--workdir={again}")
    assert said.splitlines()[0] == "r4-seed1"  # and no other is trained anew
    # Alone it becomes what it became beside three others.
    for row, before in zip(read(again)["shared"], read(finished)["shared"], strict=True):
        assert row["scores"] == pytest.approx(before["scores"], rel=1e-2, abs=1e-3)
    files = ",".join(str(finished / "adapters" / f"r4-seed{seed}") for seed in (0, 1))
    workdir = tmp_path / "theirs"
    run("subspace", *STUDY, f"--config.adapters={files}", f"--workdir={workdir}")
    theirs = np.load(workdir / "phi.npz")["one another||in|layers/q_proj/kernel"]
    ours = np.load(finished / "phi.npz")["seeds|4|in|layers/q_proj/kernel"]
    np.testing.assert_allclose(theirs, ours, atol=1e-5)


# -- bad input, before anything is trained


def adapter(directory, targets, model="llama"):
    base = hub.load_model(FIXTURES / model)
    ids = jax.ShapeDtypeStruct((1, 4), jnp.int32)
    inputs = (ids,) if model == "llama" else (ids, ids)
    lifted = lora.lift(base.apply, base.params, *inputs, method=lora.LoRA(2), targets=targets)
    factors = lifted.init(jax.random.key(0), base.params)
    hub.save_peft(directory, lifted, factors, params=base.params)
    return str(directory)


def config_of(**fields):
    config = subspace.defaults()
    config.update(fields)
    return config


def test_adapters_without_a_common_weight_are_refused(tmp_path):
    one, other = (adapter(tmp_path / name, (name,)) for name in ("q_proj", "v_proj"))
    config = config_of(adapters=f"{one},{other}")
    config.model.path = str(FIXTURES / "llama")
    with pytest.raises(ValueError, match="no weight is adapted by all") as error:
        subspace.main(config, tmp_path / "run")
    assert "q_proj" in str(error.value)
    assert not (tmp_path / "run").exists()


def test_an_adapter_of_another_model_is_refused(tmp_path):
    config = config_of(adapters=adapter(tmp_path / "bert", ("q_proj",), "bert"))
    config.model.path = str(FIXTURES / "llama")
    with pytest.raises(ValueError, match=r"not for this model|no tensor matches"):
        subspace.main(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"seeds": ()}, "name 2 or more different whole numbers"),
        ({"seeds": (0,)}, "name 2 or more"),
        ({"ranks": (8, 8)}, "different ranks"),
        ({"ranks": (0, 8)}, "ranks from 1"),
        ({"sides": ("c",)}, "unknown side 'c'"),
        ({"sides": ()}, "name one or more of a, b, in, out"),
        ({"energy": 0.0}, "energy"),
        ({"steps": 0}, "steps = 0"),
        ({"intruders": {"top": 0, "threshold": 0.5}}, "intruders.top = 0"),
    ],
)
def test_a_mistake_is_found_before_a_model_is_read(fields, message):
    with pytest.raises(ValueError, match=message):
        subspace.main(config_of(**fields), None)


def test_a_rank_beyond_the_dimension_is_refused(minilm_dir):
    config = subspace_config.get_config()
    config.ranks = (8, 385)
    with pytest.raises(ValueError, match="385"):
        subspace.main(config, None)


@pytest.mark.slow
def test_the_workdir_of_another_study_is_refused(finished):
    config = config_of(**json.loads((finished / "config.json").read_text()))
    config.steps = 3
    with pytest.raises(ValueError, match="steps: found 2, asked for 3"):
        subspace.main(config, finished)
