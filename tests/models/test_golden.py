"""Every family computes what the original implementation computes: recorded, and live."""

from pathlib import Path

import pytest
from golden.all import CASES
from golden.case import check, record

FIXTURES = Path(__file__).parent.parent / "fixtures"


@pytest.mark.parametrize("name", CASES)
def test_outputs_and_gradients_are_those_recorded_of_the_original(name):
    check(CASES[name], FIXTURES / name)


@pytest.mark.torch
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", CASES)
def test_outputs_and_gradients_are_those_of_the_original_beside_it(name, tmp_path):
    pytest.importorskip("torch", reason="torch is not installed: no live comparison")
    record(CASES[name], tmp_path, seed=CASES[name].live_seed)
    check(CASES[name], tmp_path)
