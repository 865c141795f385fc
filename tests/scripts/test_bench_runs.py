"""What the table of runs says."""

from scripts import bench_runs


def test_runs_of_both_experiments_are_read():
    encoder = {"start_f1": 0.25, "f1": 0.5, "best_f1": 0.6, "config": {"steps": 80}}
    assert bench_runs.row("c", encoder, 9.6) == "| `c` | f1 | 0.250 | 0.500 | 80 | 10 s |"
    assert bench_runs.row("c", encoder | {"start_f1": None}, None).startswith("| `c` | f1 | – |")


def test_every_run_has_a_config_that_exists():
    for experiment, config in bench_runs.RUNS.values():
        assert (bench_runs.ROOT / "experiments" / f"{experiment}.py").exists()
        assert (bench_runs.ROOT / config.split(":")[0]).exists()
