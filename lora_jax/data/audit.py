"""What encoded examples teach, read back as text: is every answer there, whole and nothing else?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lora_jax.data.encode_text import EncodedTexts, TextEncoder, answers
from lora_jax.data.packing import Example
from lora_jax.data.templates import conversation
from lora_jax.data.text_task import TextRecord
from lora_jax.hub.tokenizer import Tokenizer


def trained_texts(example: Example, tokenizer: Tokenizer) -> list[tuple[str, str]]:
    """Reads the trained tokens of an example back.

    Args:
      example: `ids` and `trained`.
      tokenizer: that encoded them.

    Returns:
      Of each run of trained tokens its text, and the control token at its end, if there is one.
    """
    names = {i: name for name, i in tokenizer.control_tokens.items()}
    found = []
    for run in answers(example["trained"]):
        ids = example["ids"][run]
        end = names.get(int(ids[-1]), "")
        found.append((tokenizer.decode(ids[: len(ids) - bool(end)], special=True), end))
    return found


def find_lost_answers(
    encoded: EncodedTexts, records: Sequence[TextRecord], encoder: TextEncoder
) -> Iterator[str]:
    """Looks for examples whose trained tokens are not exactly the answers and their ends.

    A tokenizer that keeps less than the text, such as one that drops case, is asked what it makes
    of the answer alone.

    Args:
      encoded: what `encoder.encode(records)` returned.
      records: the records.
      encoder: what encoded them; not one that trains on everything.

    Yields:
      Of each such example its place, what was to be trained and what is.
    """
    tokenizer = encoder.tokenizer
    for example, row in zip(encoded.examples, encoded.rows, strict=True):
        record = records[row]
        turns = conversation(record)
        wanted = [turn.text for turn in turns if turn.role == "assistant"]
        if encoder.train_on == "answer":
            wanted = wanted[-1:]
        found = trained_texts(example, tokenizer)
        texts = [text.strip() for text, _ in found]
        if texts != [text.strip() for text in wanted]:
            kept = tokenizer.encode_ragged(wanted, special=False)
            wanted = [tokenizer.decode(ids, special=True) for ids in kept]
        if texts != [text.strip() for text in wanted] or not all(end for _, end in found):
            yield f"{record.place}: {wanted} was to be trained, but {found} is"
