"""Text from a language model, shown as it comes.

    python -m experiments.generate --config=configs/generate.py --config.model=DIR \
        --config.prompt="Once upon a time"

With a workdir it writes results.json.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import PIL.Image
from ml_collections import ConfigDict
from rich.console import Console

from experiments.decoder import load_decoder
from experiments.launch import launch
from lora_jax import hub, models
from lora_jax.evaluation import BeamSearch, Completion, Sampling, generate_text
from lora_jax.reports import installed_versions, write_results


def defaults() -> ConfigDict:
    """Every setting of a run; a config overrides some of them."""
    config = ConfigDict()
    config.model = ""  # a directory, a name on the hub, or a .bin file of llama2.c
    config.dtype = ""  # of params and products; empty: that of the files
    config.scan = False  # compiles faster for many layers, but on CPU decodes slower
    config.prompt = ""
    config.prompts = ""  # a file with one prompt a line, instead of `prompt`
    config.chat = False  # prompts are messages, put into the model's chat template
    config.system = ""  # the system message of a chat
    config.image = ""  # a file; the prompt has the model's image token, or `chat` places it
    config.max_new_tokens = 128
    config.sequences = 1  # texts for each prompt
    config.stop = ()  # strings that end a text
    config.seed = 0
    config.sampling = ConfigDict({"temperature": 0.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0})
    config.sampling.update(min_new_tokens=0, repetition_penalty=1.0, no_repeat_ngram=0)
    config.beams = 0  # above 0: beam search instead of sampling
    config.length_penalty = 1.0
    config.early_stopping = "False"  # or "True", "never"
    config.lock()
    return config


def main(config: ConfigDict, workdir: Path | None) -> None:
    """Generates, prints, and writes results.json if there is a workdir."""
    console = Console(highlight=False, soft_wrap=True)
    prompts = read_prompts(config)
    search = make_search(config)
    model = load_decoder(config)
    inputs = prepare(config, model, prompts)
    if workdir is not None:
        workdir.mkdir(parents=True, exist_ok=True)

    # ---- Generation
    # The pieces of several texts would come in turns: these are printed when they are whole.
    streams = len(prompts) * config.sequences == 1
    if streams:
        console.print(prompts[0], style="dim", end="\n" if config.chat else "", markup=False)
    start = time.perf_counter()
    made = generate_text(
        model,
        inputs,
        max_new_tokens=config.max_new_tokens,
        search=search,
        stop=tuple(config.stop),
        sequences=config.sequences,
        key=jax.random.key(config.seed),
        callback=show(console) if streams else None,
    )
    seconds = time.perf_counter() - start

    # ---- What came out
    if streams:
        console.print()
    else:
        print_all(console, prompts, made, config.sequences)
    tokens = sum(len(text.tokens) for text in made)
    console.print(f"{tokens} tokens in {seconds:.1f} s, compiling included", style="dim")
    if workdir is not None:
        texts = [
            {"prompt": prompts[i // config.sequences], **text._asdict()}
            for i, text in enumerate(made)
        ]
        write_results(
            workdir / "results.json",
            {
                "texts": texts,
                "seconds": seconds,
                "config": config.to_dict(),
                "versions": installed_versions(),
            },
        )


def plan(config: ConfigDict) -> None:
    """Prints what would be generated, and from what."""
    console = Console(highlight=False, soft_wrap=True, markup=False)
    prompts = read_prompts(config)
    search = make_search(config)
    model = load_decoder(config)
    inputs = prepare(config, model, prompts)
    count = sum(leaf.size for leaf in jax.tree.leaves(model.params))
    console.print(f"model: {model.config.model_type}, {count:,} parameters, {model.config.dtype}")
    console.print(f"prompts: {len(prompts)} of at most {inputs.mask.sum(axis=1).max()} tokens")
    console.print(f"first: {model.tokenizer.tokens(inputs.ids[0][inputs.mask[0] == 1])}")
    console.print(f"new tokens: at most {config.max_new_tokens}, {search}")
    rows = len(prompts) * max(config.sequences, config.beams)
    slots = inputs.ids.shape[1] + config.max_new_tokens - 1
    cache = jax.eval_shape(lambda: models.new_cache(model.config, rows, slots))
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(cache))
    console.print(f"cache: {rows} rows of {slots} tokens, {size / 2**20:.1f} MiB")


def read_prompts(config: ConfigDict) -> list[str]:
    """The prompts of the config or of its file."""
    if bool(config.prompt) == bool(config.prompts):
        raise ValueError("give --config.prompt=TEXT, or --config.prompts=FILE with one a line")
    if config.prompt:
        return [config.prompt]
    lines = Path(config.prompts).read_text(encoding="utf-8").splitlines()
    if not any(lines):
        raise ValueError(f"{config.prompts} has no prompt")
    return [line for line in lines if line]


def make_search(config: ConfigDict) -> Sampling | BeamSearch:
    """How tokens are chosen."""
    if not config.beams:
        return Sampling(**config.sampling)
    settings = config.sampling.to_dict()
    if settings.pop("temperature"):
        raise ValueError("beams search, a temperature draws: set one of them to 0")
    del settings["top_k"], settings["top_p"], settings["min_p"]  # nothing is drawn
    early = {"True": True, "False": False}.get(config.early_stopping, config.early_stopping)
    return BeamSearch(
        beams=config.beams, length_penalty=config.length_penalty, early_stopping=early, **settings
    )


def prepare(
    config: ConfigDict, model: hub.Pretrained, prompts: list[str]
) -> hub.Encoded | hub.Prompt:
    """Texts, messages and a picture to the inputs of the model."""
    texts = prompts
    if config.chat:
        texts = [
            model.tokenizer.apply_chat_template(conversation(config, p), add_generation_prompt=True)
            for p in prompts
        ]
    if not config.image:
        return model.tokenizer.encode(texts, side="left", special=not config.chat)
    if len(prompts) > 1:
        raise ValueError(f"one image, but {len(prompts)} prompts")
    with PIL.Image.open(config.image) as image:
        return model.processor(texts, [image.convert("RGB")], side="left", special=not config.chat)


def conversation(config: ConfigDict, prompt: str) -> list[dict[str, Any]]:
    """The messages before the model's answer."""
    content: Any = prompt
    if config.image:
        content = [{"type": "image"}, {"type": "text", "text": prompt}]
    system = [{"role": "system", "content": config.system}] if config.system else []
    return [*system, {"role": "user", "content": content}]


def show(console: Console) -> Callable[[int, str], None]:
    """Prints pieces of one text."""
    return lambda _, piece: console.print(piece, end="", markup=False)


def print_all(console: Console, prompts: list[str], made: list[Completion], sequences: int) -> None:
    """Prints each prompt and its texts."""
    for i, text in enumerate(made):
        if i % sequences == 0:
            console.print(prompts[i // sequences], style="dim", markup=False)
        console.print(f"  {text.text}", markup=False)


if __name__ == "__main__":
    launch(main, plan)
