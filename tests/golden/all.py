"""Every case, by the name of its folder under tests/fixtures."""

from golden import deberta, decoders, encoders, multimodal, seq2seq, vision
from golden.case import Case

CASES: dict[str, Case] = {
    **encoders.CASES,
    **deberta.CASES,
    **decoders.CASES,
    **multimodal.CASES,
    **seq2seq.CASES,
    **vision.CASES,
}
