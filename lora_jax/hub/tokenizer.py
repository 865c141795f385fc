"""Texts to token ids, by the tokenizer.json that a pretrained model was trained with."""

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from jaxtyping import Int

from lora_jax.hub import chat
from lora_jax.hub.encoded import Encoded, pad, raise_too_long
from lora_jax.hub.files import read_json

SIDES = ("right", "left")

# What a directory holds when its tokenizer was never saved in the form that is read here.
_OTHER_FORMS = ("*.model", "vocab.json", "vocab.txt")


class Tokenizer:
    """Turns texts, pairs of texts or conversations into token ids and back.

    Args:
        directory: holds `tokenizer.json`, which is read at the first use, and may hold
            `tokenizer_config.json`, which names the special tokens, and chat templates.
        pad_id: id that fills up short texts; None takes the padding token of the tokenizer, or
            else its end of text.
        bos_id: id of the beginning of a text where the tokenizer names none.
        eos_id: id of the end of a text where the tokenizer names none.
        vocab_size: rows of the model's table; no token may have a higher id.

    Raises, at the first use:
        FileNotFoundError: there is no `tokenizer.json`.
        ValueError: the file is corrupt.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        pad_id: int | None = None,
        bos_id: int | None = None,
        eos_id: int | None = None,
        vocab_size: int | None = None,
    ) -> None:
        self.directory = Path(directory)
        self._pad_id = pad_id
        self._bos_id = bos_id
        self._eos_id = eos_id
        self._limit = vocab_size

    @property
    def file(self) -> Path:
        """Where the vocabulary lies."""
        return self.directory / "tokenizer.json"

    @property
    def exists(self) -> bool:
        """Whether there is a file to read."""
        return self.file.is_file()

    @property
    def vocab_size(self) -> int:
        """Number of tokens, the added ones included."""
        return self._tokenizer.get_vocab_size(with_added_tokens=True)

    @property
    def learnt_size(self) -> int:
        """Number of tokens without those added to the vocabulary later."""
        return self._tokenizer.get_vocab_size(with_added_tokens=False)

    @property
    def pad_id(self) -> int | None:
        """Id of padding; None if the model has neither a padding token nor an end of text."""
        if self._pad_id is not None:
            return self._pad_id
        found = self._special_id("pad_token")
        return self.eos_id if found is None else found

    @property
    def bos_id(self) -> int | None:
        """Id of the beginning of a text, if there is one."""
        found = self._special_id("bos_token")
        return self._bos_id if found is None else found

    @property
    def eos_id(self) -> int | None:
        """Id of the end of a text, if there is one."""
        found = self._special_id("eos_token")
        return self._eos_id if found is None else found

    @functools.cached_property
    def special_tokens(self) -> dict[str, str]:
        """The special tokens by their names, such as `{"eos_token": "</s>"}`."""
        found: dict[str, str] = {}
        for name in ("special_tokens_map.json", "tokenizer_config.json"):
            if (self.directory / name).is_file():
                found |= _special_tokens(read_json(self.directory / name))
        return found

    @functools.cached_property
    def control_tokens(self) -> dict[str, int]:
        """The tokens that stand for no text, such as `{"</s>": 2}`, wherever they are written."""
        added = self._tokenizer.get_added_tokens_decoder()
        return {token.content: i for i, token in added.items() if token.special}

    @functools.cached_property
    def chat_templates(self) -> dict[str, str]:
        """The chat templates of the model by name; empty for a model that has none."""
        return chat.read_templates(self.directory)

    def _special_id(self, name: str) -> int | None:
        token = self.special_tokens.get(name)
        return None if token is None or not self.exists else self._tokenizer.token_to_id(token)

    @functools.cached_property
    def _tokenizer(self) -> tokenizers.Tokenizer:
        tokenizer = self._read()
        tokenizer.no_padding()
        return tokenizer

    def _read(self) -> tokenizers.Tokenizer:
        if not self.exists:
            raise FileNotFoundError(f"{self.directory} has no {self.file.name}{self._other_form()}")
        try:
            return tokenizers.Tokenizer.from_file(str(self.file))
        except Exception as error:  # the library raises nothing narrower
            raise ValueError(f"{self.file} is not a tokenizer: {error}") from error

    def _other_form(self) -> str:
        """The way out for a directory whose tokenizer has another form."""
        found = [file.name for form in _OTHER_FORMS for file in self.directory.glob(form)]
        if not found:
            return ""
        return (
            f", only {sorted(found)[0]}; make it once, where transformers and sentencepiece are "
            "installed, with AutoTokenizer.from_pretrained(directory).save_pretrained(directory)"
        )

    def encode(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        *,
        length: int | None = None,
        truncate: bool = False,
        side: str = "right",
        special: bool = True,
    ) -> Encoded:
        """Encodes texts, padded to one length.

        Args:
            texts: the texts.
            pairs: the second text of each pair, as many as `texts`.
            length: length of the result in tokens; None takes that of the longest text.
            truncate: cut texts that are longer than `length`, of a pair the longer one first.
            side: "right" pads at the end, "left" at the beginning, as generation likes it.
            special: add the special tokens of the model; False for the text of a chat template,
                which spells them out.

        Returns:
            Arrays of int32.

        Raises:
            ValueError: a text is too long and `truncate` is False, the numbers of texts differ,
                padding is needed and there is no id for it, or a token is beyond the model's table.
        """
        if side not in SIDES:
            raise ValueError(f"unknown side {side!r}; known: {', '.join(SIDES)}")
        if pairs is not None and len(pairs) != len(texts):
            raise ValueError(f"{len(texts)} texts, but {len(pairs)} second texts")
        if truncate and length is not None:
            self._tokenizer.enable_truncation(length, strategy="longest_first")
        else:
            self._tokenizer.no_truncation()
        inputs = list(texts) if pairs is None else list(zip(texts, pairs, strict=True))
        encodings = self._tokenizer.encode_batch(inputs, add_special_tokens=special)
        lengths = [len(encoding.ids) for encoding in encodings]
        longest = max(lengths, default=0)
        if length is not None and longest > length:
            raise_too_long(texts, lengths, length)
        length = longest if length is None else length
        padded = any(found < length for found in lengths)
        batch = pad(encodings, length, self._padding() if padded else 0, left=side == "left")
        self._check_ids(batch.ids)
        return batch

    def encode_ragged(self, texts: Sequence[str], *, special: bool = True) -> list[np.ndarray]:
        """Encodes texts one by one, none padded or cut.

        Args:
            texts: the texts.
            special: as of `encode`.

        Returns:
            Of each text its ids in int32.

        Raises:
            ValueError: a token is beyond the model's table.
        """
        self._tokenizer.no_truncation()
        found = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=special)
        ids = [np.array(encoding.ids, np.int32) for encoding in found]
        for row in ids:
            self._check_ids(row)
        return ids

    def _padding(self) -> int:
        if self.pad_id is None:
            raise ValueError(
                f"the texts differ in length, and {self.directory} names no padding token and no "
                "end of text to fill them up with; encode them one at a time, or give "
                "Tokenizer(directory, pad_id=...)"
            )
        return self.pad_id

    def _check_ids(self, ids: np.ndarray) -> None:
        if self._limit is not None and ids.size and ids.max() >= self._limit:
            token = int(ids.max())
            raise ValueError(
                f"token {self._tokenizer.id_to_token(token)!r} has the id {token}, but the model's "
                f"vocabulary ends at {self._limit - 1}"
            )

    def apply_chat_template(
        self,
        messages: Sequence[chat.Message],
        *,
        add_generation_prompt: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        template: str | None = None,
        **variables: Any,
    ) -> str:
        """Renders a conversation as the model was trained to read it.

        Args:
            messages: each a mapping with "role" and "content".
            add_generation_prompt: end with the opening of the assistant's next turn.
            tools: JSON schemas of functions that the model may call.
            documents: texts that the model may draw on.
            template: name of the template, for a model that has several.
            **variables: what else the template reads, such as `enable_thinking=False`.

        Returns:
            The text; encode it with `special=False`.

        Raises:
            ValueError: the model has no such template, or the template refuses the conversation.
        """
        chosen = chat.choose_template(self.chat_templates, template, tools=tools is not None)
        return chat.render(
            chosen,
            messages,
            add_generation_prompt=add_generation_prompt,
            tools=tools,
            documents=documents,
            **(self.special_tokens | variables),
        )

    def decode(
        self, ids: Sequence[int] | Int[np.ndarray, " length"], *, special: bool = False
    ) -> str:
        """Turns token ids back into text, without special tokens unless `special`."""
        return self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=not special)

    def save(self, directory: Path) -> None:
        """Writes `tokenizer.json`, and beside it which tokens begin and end a text."""
        self._tokenizer.save(str(directory / "tokenizer.json"))
        ids = {"bos_token": self.bos_id, "eos_token": self.eos_id}
        names = {name: self._tokenizer.id_to_token(i) for name, i in ids.items() if i is not None}
        fields = {"tokenizer_class": "PreTrainedTokenizerFast", **names}
        (directory / "tokenizer_config.json").write_text(json.dumps(fields, indent=2) + "\n")

    def tokens(self, ids: Sequence[int] | Int[np.ndarray, " length"]) -> list[str]:
        """Spells out each token id, special ones too."""
        return [self._tokenizer.id_to_token(int(i)) or "?" for i in ids]


def _special_tokens(fields: Mapping[str, Any]) -> dict[str, str]:
    """The entries that name one token, spelt as a text or as an object with its text in it."""
    found = {}
    for name, value in fields.items():
        text = value.get("content") if isinstance(value, dict) else value
        if name.endswith("_token") and isinstance(text, str):
            found[name] = text
    return found
