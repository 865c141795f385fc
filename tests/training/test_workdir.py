import json
import platform
import subprocess
import sys

import pytest

from lora_jax.training import open_workdir, write_json
from lora_jax.training.workdir import check_writable, locked

CONFIG = {"experiment": "finetune", "method": {"rank": 8}, "targets": ("q_proj", "v_proj")}


def test_a_new_directory_holds_its_config(tmp_path):
    workdir = open_workdir(tmp_path / "deep" / "run", CONFIG)
    found = json.loads((workdir / "config.json").read_text())
    assert found == {**CONFIG, "targets": ["q_proj", "v_proj"]}
    assert [path.name for path in workdir.iterdir()] == ["config.json"]


def test_the_same_experiment_may_come_back(tmp_path):
    workdir = open_workdir(tmp_path / "run", CONFIG)
    (workdir / "metrics.jsonl").write_text("")
    assert open_workdir(tmp_path / "run", CONFIG) == workdir


def test_another_experiment_is_refused_and_the_fields_named(tmp_path):
    open_workdir(tmp_path, CONFIG)
    with pytest.raises(ValueError, match=r"method.rank: found 8, asked for 4\. Choose another"):
        open_workdir(tmp_path, {**CONFIG, "method": {"rank": 4}})
    assert json.loads((tmp_path / "config.json").read_text())["method"]["rank"] == 8


def test_fields_that_do_not_matter_may_differ(tmp_path):
    open_workdir(tmp_path, {**CONFIG, "log_every": 1})
    open_workdir(tmp_path, {**CONFIG, "log_every": 2}, ignore=["log_every"])


def test_a_directory_with_other_files_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(ValueError, match=r"has files but no config\.json"):
        open_workdir(tmp_path, CONFIG)


def test_a_file_in_place_of_the_directory_is_refused(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(OSError, match=r"cannot write .*run: File exists\. Choose another workdir"):
        open_workdir(tmp_path / "run", CONFIG)


@pytest.fixture(params=["full", "read-only"])
def bad_disk(request, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    option = {"full": "size=64k", "read-only": "ro"}[request.param]
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", option, "tmpfs", str(disk)], check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a disk needs root")
    if request.param == "full":
        with pytest.raises(OSError, match="No space"), (disk / "filler").open("wb") as file:
            file.write(b"0" * 100_000)
    yield disk, {"full": "No space left on device", "read-only": "Read-only"}[request.param]
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_or_read_only_disk_is_a_clear_error_and_nothing_stays_on_it(bad_disk):
    disk, reason = bad_disk
    before = sorted(disk.rglob("*"))
    with pytest.raises(OSError, match=f"cannot write .*: {reason}.*Choose another workdir"):
        check_writable(disk)
    assert sorted(disk.rglob("*")) == before


def test_too_little_space_is_a_clear_error(tmp_path):
    with pytest.raises(OSError, match=r"MiB free, and the checkpoints need 1099511627776\.0 MiB"):
        check_writable(tmp_path, needed=2**60)


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path):
    write_json(tmp_path / "a.json", {"x": 1})
    (tmp_path / "b.json").mkdir()
    with pytest.raises(OSError, match="cannot write"):
        write_json(tmp_path / "b.json", {"x": 2})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "b.json"]
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": 1}


def test_two_processes_do_not_train_in_one_directory(tmp_path):
    code = (
        "import pathlib, sys, time; from lora_jax.training.workdir import locked\n"
        "with locked(pathlib.Path(sys.argv[1])): print('in', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "in\n"
        said = f"is in use by process {other.pid} on {platform.node()}. Wait for it, stop it, or"
        with pytest.raises(OSError, match=said), locked(tmp_path):
            pass
        other.kill()
    assert (tmp_path / ".lock").exists()  # and it is stale: it locks nothing
    with locked(tmp_path):
        pass
