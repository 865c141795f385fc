import json
import os
import struct
import sys

import pytest

from lora_jax.training import TensorBoard, WandB

ROWS = [
    {"step": 1, "loss": 0.5, "tokens": 12},
    {"step": 2, "loss": None, "tokens": 12},
    {"step": 2, "eval/accuracy": 0.25},
]


def write(sink, workdir, step=0, rows=ROWS):
    sink.open(workdir, step)
    for row in rows:
        sink.write(row)
    sink.close()


def events(directory):
    """Reads TFRecords: the length, its checksum, an event, its checksum."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    for path in sorted(directory.iterdir(), key=lambda path: path.stat().st_mtime_ns):
        content = path.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            yield event_pb2.Event.FromString(content[12 : 12 + length])
            content = content[16 + length :]


def test_tensorboard_gets_the_numbers_of_every_row(tmp_path):
    pytest.importorskip("tensorboardX")
    write(TensorBoard(), tmp_path)
    found = [
        (value.tag, event.step, value.simple_value)
        for event in events(tmp_path / "tensorboard")
        for value in event.summary.value
    ]
    expected = [("loss", 1, 0.5), ("tokens", 1, 12), ("tokens", 2, 12), ("eval/accuracy", 2, 0.25)]
    assert sorted(found) == sorted(expected)


def test_tensorboard_forgets_the_steps_that_come_again(tmp_path):
    pytest.importorskip("tensorboardX")
    write(TensorBoard(), tmp_path)
    write(TensorBoard(), tmp_path, step=1, rows=[{"step": 2, "loss": 0.25}])
    starts = [
        event.step
        for event in events(tmp_path / "tensorboard")
        if event.session_log.status == event.session_log.START
    ]
    assert starts == [2]


class FakeRun:
    def __init__(self, settings):
        self.settings, self.logged, self.finished = settings, [], False

    def define_metric(self, name, step_metric):
        assert (name, step_metric) == ("*", "step")

    def log(self, row):
        self.logged.append(row)

    def finish(self):
        self.finished = True


class FakeWandB:
    def __init__(self):
        self.runs = []

    def init(self, **settings):
        self.runs.append(FakeRun(settings))
        return self.runs[-1]


def test_wandb_resumes_the_run_of_the_workdir(tmp_path, monkeypatch):
    fake = FakeWandB()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    sink = WandB("lora_jax", {"rank": 8})
    write(sink, tmp_path)
    write(sink, tmp_path, step=1)
    first, second = fake.runs
    assert first.settings["id"] == second.settings["id"]
    assert json.loads((tmp_path / "wandb.json").read_text()) == {"id": first.settings["id"]}
    assert first.settings["config"] == {"rank": 8}
    assert first.settings["resume"] == "allow"
    assert first.logged == [
        {"step": 1, "loss": 0.5, "tokens": 12},
        {"step": 2, "tokens": 12},
        {"step": 2, "eval/accuracy": 0.25},
    ]
    assert first.finished


def test_a_package_that_is_not_there_is_named_with_the_extra_that_brings_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match=r"wandb is not installed: pip install -e '\.\[wandb\]'"):
        WandB("lora_jax", {})


@pytest.mark.slow
def test_wandb_writes_without_a_network(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    write(WandB("lora_jax", {"rank": 8}, mode="offline"), tmp_path)
    assert [name for name in os.listdir(tmp_path / "wandb") if name.startswith("offline-run-")]
