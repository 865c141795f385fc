# mypy: disable-error-code="import-not-found, import-untyped"
"""Records what PEFT's methods compute, as references for tests.

Run it where torch, transformers and peft are installed (the library needs none of them):

    python scripts/record_peft.py [NAME ...]

For each case of tests/golden/peft_methods.py (all, or those named) it writes
tests/fixtures/peft_methods/NAME.npz.
"""

import pathlib
import sys

sys.path.append(str(pathlib.Path(__file__).resolve().parent.parent))

from tests.golden import peft_methods


def main(names: list[str]) -> None:
    """Records the cases of these names, or all."""
    known = peft_methods.CASES
    if unknown := set(names) - set(known):
        raise SystemExit(f"unknown {sorted(unknown)}; known: {', '.join(known)}")
    for name in names or known:
        peft_methods.write(name, peft_methods.record(known[name]))


if __name__ == "__main__":
    main(sys.argv[1:])
