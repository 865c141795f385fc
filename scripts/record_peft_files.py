# mypy: disable-error-code="import-not-found, import-untyped"
"""Records adapters made by PEFT on the recorded models, as references for tests.

Run it where torch, transformers and peft are installed (the library needs none of them):

    python scripts/record_peft_files.py [NAME ...]

For each case of tests/golden/peft.py (all, or those named) it writes tests/fixtures/peft/NAME/: the
files of the adapter as `save_pretrained` leaves them, and what the adapted model computes.
"""

import pathlib
import shutil
import sys

TESTS = pathlib.Path(__file__).resolve().parent.parent / "tests"
sys.path.append(str(TESTS))

from golden.peft import ADAPTED, FIXTURES, record  # noqa: E402


def main(names: list[str]) -> None:
    """Records the cases of these names, or all."""
    if unknown := set(names) - set(ADAPTED):
        raise SystemExit(f"unknown {sorted(unknown)}; known: {', '.join(ADAPTED)}")
    for name in names or ADAPTED:
        directory = FIXTURES / "peft" / name
        shutil.rmtree(directory, ignore_errors=True)
        record(ADAPTED[name], directory)
        shutil.rmtree(FIXTURES / "peft" / "starts", ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1:])
