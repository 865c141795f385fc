"""A lossless byte-level tokenizer with a chat template, made here."""

import json

import tokenizers

from lora_jax import hub

TEXTS = [
    "The quick brown fox jumps over the lazy dog. Answer with a JSON object of the total.",
    "How many clips did Natalia sell in May? She sold 48 / 2 = 24 clips. #### 72",
] * 4

CHATML = """{%- for m in messages -%}
<|im_start|>{{ m.role }}
{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content -%}
{{ '<image>' if p.type == 'image' else p.text }}{% endfor %}{% endif %}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif -%}"""
# Each answer begins with a space and ends with the end of text, as in Mistral's and Llama 2's.
BRACKETS = """{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %} {{ m.content
}}{{ eos_token }}{% else %}[INST] {{ m.content }} [/INST]{% endif %}{% endfor %}"""
# The opening is written with the answer only, and contents are stripped, as in Llama 3's.
HEADERS = """{{ bos_token }}{% for m in messages %}<|im_start|>{{ m.role }}<|im_end|>

{{ m.content | trim }}<|endoftext|>{% endfor %}"""
TEMPLATES = {"chatml": CHATML, "brackets": BRACKETS, "headers": HEADERS}


def make_tokenizer(directory, template=CHATML, **fields):
    """Writes the tokenizer into a directory, and reads it."""
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    special = ["<|endoftext|>", "<s>", "<|im_start|>", "<|im_end|>", "<image>"]
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(TEXTS, trainer)
    directory.mkdir(exist_ok=True, parents=True)
    made.save(str(directory / "tokenizer.json"))
    config = {"bos_token": "<s>", "eos_token": "<|endoftext|>", "chat_template": template} | fields
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return hub.Tokenizer(directory)
