# mypy: disable-error-code="import-not-found, import-untyped"
"""Records what PEFT's methods compute, as references for tests.

Run it where torch, transformers and peft are installed (the library needs none of them):

    python scripts/record_peft.py [NAME ...]

For each case of tests/golden/peft_methods.py and each recorded pair of tests/golden/peft_matrix.py
(all, or those named) it writes tests/fixtures/peft_methods/NAME.npz or
tests/fixtures/peft_matrix/NAME.npz.
"""

import pathlib
import sys

sys.path.append(str(pathlib.Path(__file__).resolve().parent.parent / "tests"))

from golden import peft_matrix, peft_methods


def main(names: list[str]) -> None:
    """Records the cases of these names, or all."""
    pairs = {str(pair): pair for pair in peft_matrix.RECORDED}
    known = [*peft_methods.CASES, *pairs]
    if unknown := set(names) - set(known):
        raise SystemExit(f"unknown {sorted(unknown)}; known: {', '.join(known)}")
    for name in names or known:
        if name in pairs:
            peft_matrix.write(pairs[name], peft_matrix.record(pairs[name]))
        else:
            peft_methods.write(name, peft_methods.record(peft_methods.CASES[name]))


if __name__ == "__main__":
    main(sys.argv[1:])
