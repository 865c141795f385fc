"""What the machine can do at most is measured by turns, and pages are written by name."""

import subprocess
from pathlib import Path

from scripts import bench_machine

ROOT = Path(__file__).parent.parent.parent


def test_products_and_copies_are_measured_in_every_round():
    contenders = bench_machine.our_contenders(size=16, megabytes=1)
    rates = bench_machine.measure(contenders, rounds=2)
    assert list(rates) == list(contenders)
    assert all(len(own) == 2 and min(own) > 0 for own in rates.values())
    work = {name.split(",")[0]: work for name, (_, work) in contenders.items()}
    assert work == {"product": 2 * 16**3, "read and write": 2 * 1_000_000}


def test_an_unknown_benchmark_is_refused_before_anything_is_installed_or_measured():
    script = ROOT / "scripts/bench_all.sh"
    done = subprocess.run([script, "trainin"], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "there is no benchmark trainin; known: machine lift methods" in done.stderr
    assert not done.stdout


def test_every_benchmark_has_a_page_of_its_own():
    script = (ROOT / "scripts/bench_all.sh").read_text()
    missing = [
        path.name
        for path in sorted((ROOT / "scripts").glob("bench_*.py"))
        if path.name not in script and "def main()" in path.read_text()
        if path.name != "bench_runs.py"
    ]
    assert not missing
