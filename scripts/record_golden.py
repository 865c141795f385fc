# mypy: disable-error-code="import-not-found, import-untyped"
"""Records what the original implementations compute, as references for tests.

Run it where torch and transformers are installed (the library needs neither):

    python scripts/record_golden.py [NAME ...]

For each case of tests/golden (all, or those named) it writes tests/fixtures/NAME/: a small random
model as `save_pretrained` leaves it, its gradients in the same form, and `expected.npz` with the
inputs, the output and the generated tokens.
"""

import pathlib
import shutil
import sys

TESTS = pathlib.Path(__file__).resolve().parent.parent / "tests"
sys.path.append(str(TESTS))

from golden.all import CASES  # noqa: E402
from golden.case import record  # noqa: E402


def main(names: list[str]) -> None:
    """Records the cases of these names, or all."""
    if unknown := set(names) - set(CASES):
        raise SystemExit(f"unknown {sorted(unknown)}; known: {', '.join(CASES)}")
    for name in names or CASES:
        directory = TESTS / "fixtures" / name
        shutil.rmtree(directory, ignore_errors=True)
        record(CASES[name], directory)


if __name__ == "__main__":
    main(sys.argv[1:])
