"""A tokenizer of forty words, for models that need one."""

from collections.abc import Callable
from pathlib import Path


def word_tokenizer(pad_id: int) -> Callable[[Path], None]:
    """What writes a tokenizer.json with the special tokens of the model around a text."""

    def save(directory: Path) -> None:
        import tokenizers

        special = ["<s>", "<pad>", "</s>"] if pad_id == 1 else ["<pad>", "<s>", "</s>"]
        words = "<unk> <mask> a an and of on in is the it to cat dog fox man old red sat saw ran ."
        vocabulary = {word: i for i, word in enumerate([*special, *words.split()])}
        made = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
        made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
        made.post_processor = tokenizers.processors.TemplateProcessing(
            single="<s> $A </s>",
            pair="<s> $A </s> $B:1 </s>:1",
            special_tokens=[(word, vocabulary[word]) for word in ("<s>", "</s>")],
        )
        made.add_special_tokens(["<s>", "<pad>", "</s>", "<mask>"])
        made.save(str(directory / "tokenizer.json"))

    return save
