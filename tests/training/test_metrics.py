import jax.numpy as jnp
import numpy as np

from lora_jax.training.metrics import MetricsLog, read_rows


def test_rows_are_lines_of_json_as_soon_as_they_are_written(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path) as log:
        log.write(1, {"loss": np.float32(0.5), "tokens": 12})
        log.write(2, {"eval/accuracy": jnp.asarray(0.25)})
        assert path.read_text() == (
            '{"step": 1, "loss": 0.5, "tokens": 12}\n{"step": 2, "eval/accuracy": 0.25}\n'
        )


def test_numbers_that_json_lacks_are_null(tmp_path):
    with MetricsLog(tmp_path / "metrics.jsonl") as log:
        log.write(1, {"loss": float("nan"), "worst": np.inf})
    assert read_rows(tmp_path / "metrics.jsonl") == [{"step": 1, "loss": None, "worst": None}]


def test_resuming_drops_the_rows_that_will_come_again_and_a_torn_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path) as log:
        for step in range(1, 6):
            log.write(step, {"loss": step})
    with path.open("a") as file:
        file.write('{"step": 6, "lo')
    with MetricsLog(path, step=3) as log:
        log.write(4, {"loss": 40})
        assert [row["loss"] for row in log.rows] == [1, 2, 3, 40]
    assert read_rows(path) == log.rows


def test_a_new_run_starts_an_empty_log(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path) as log:
        log.write(1, {"loss": 1})
    with MetricsLog(path) as log:
        assert log.rows == []
    assert path.read_text() == ""


def test_without_a_path_rows_are_kept_in_memory():
    with MetricsLog() as log:
        log.write(1, {"loss": 1})
    assert log.rows == [{"step": 1, "loss": 1}]
