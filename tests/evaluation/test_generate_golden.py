"""Generated tokens are those of the original implementation: recorded, and live."""

from pathlib import Path

import numpy as np
import pytest
from golden.all import CASES
from golden.case import load, record

from lora_jax.evaluation import BeamSearch, Sampling, generate

FIXTURES = Path(__file__).parent.parent / "fixtures"
GENERATING = [(name, kind) for name, case in CASES.items() for kind in case.generate]

# Ours, by the name in transformers.
RULES = {
    "min_new_tokens": "min_new_tokens",
    "repetition_penalty": "repetition_penalty",
    "no_repeat_ngram_size": "no_repeat_ngram",
}
BEAMS = {
    "num_beams": "beams",
    "length_penalty": "length_penalty",
    "early_stopping": "early_stopping",
}
ARGUMENTS = {"max_new_tokens": "max_new_tokens", "num_return_sequences": "sequences"}


def translate(settings):
    """Our arguments of `generate`, for settings of transformers that leave nothing to chance."""
    settings = dict(settings)
    assert not settings.pop("do_sample")
    names = RULES | (BEAMS if settings.get("num_beams", 1) > 1 else {})
    search = {ours: settings.pop(theirs) for theirs, ours in names.items() if theirs in settings}
    arguments = {ours: settings.pop(name) for name, ours in ARGUMENTS.items() if name in settings}
    assert not settings, f"no setting of ours for {settings}"
    return arguments | {"search": BeamSearch(**search) if "beams" in search else Sampling(**search)}


def check(name, kind, directory):
    case = CASES[name]
    model, _, expected = load(case, directory)
    args = [expected[f"prompt:{argument}"] for argument in case.arguments[:2]]
    prompt = {name.removeprefix("prompt:"): value for name, value in expected.items()}
    named = case.keywords(model.config, prompt)
    made = generate(
        model.apply,
        model.params,
        *args,
        config=model.config,
        **translate(case.generate[kind]),
        **named,
    )
    wanted = expected[f"tokens:{kind}"]
    encoder_decoder = hasattr(model.config, "decoder_start_id")
    wanted = wanted[:, 1 if encoder_decoder else args[0].shape[1] :]
    found = np.asarray(made.tokens)
    lengths = np.asarray(made.lengths)
    assert lengths.max() == wanted.shape[1]
    for row in range(len(wanted)):
        assert found[row, : lengths[row]].tolist() == wanted[row, : lengths[row]].tolist()
        # The original fills up with padding; in beam search with an end, if padding is token 0.
        filled = {model.config.pad_id, *model.config.eos_ids}
        assert set(wanted[row, lengths[row] :].tolist()) <= filled


@pytest.mark.parametrize(("name", "kind"), GENERATING)
def test_tokens_are_those_recorded_of_the_original(name, kind):
    check(name, kind, FIXTURES / name)


@pytest.mark.torch
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.generate])
def test_tokens_are_those_of_the_original_beside_it(name, tmp_path):
    pytest.importorskip("torch", reason="torch is not installed: no live comparison")
    record(CASES[name], tmp_path, seed=1)  # other weights and prompts than those recorded
    for kind in CASES[name].generate:
        check(name, kind, tmp_path)
