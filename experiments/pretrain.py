"""A base of our own: a small decoder trained from scratch on text that every Python carries.

    python -m experiments.pretrain --config=configs/pretrain.py --workdir=runs/pretrain

A claim about adapting a pretrained model needs one; this makes one where none can be downloaded.
WORKDIR/model is then a directory that `hub.load_model` and transformers load. The same command
resumes. Writes config.json, metrics.jsonl, checkpoints/, model/, results.json and report.html.
"""

from __future__ import annotations

import hashlib
import math
import tempfile
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict
from rich.console import Console

from experiments.launch import launch
from experiments.pretrain_report import Pretraining, write_report
from experiments.settings import check_counts
from lora_jax import hub, models, training
from lora_jax.data import TextTask, count, load_text_task, training_batches
from lora_jax.data.packing import Rows
from lora_jax.data.streams import cut_stream
from lora_jax.hub.new_tokenizer import train_tokenizer
from lora_jax.models.decoder import DecoderConfig
from lora_jax.reports import plan
from lora_jax.training.language_model import RULES, loss, make_outputs, score

MAY_CHANGE = ("checkpoint_every", "keep")


def defaults() -> ConfigDict:
    """Every setting of the run; a config overrides some of them."""
    config = ConfigDict()
    config.task = ConfigDict({"name": "stdlib_code"})
    config.task.options = ConfigDict({"characters": 1000})  # of a document
    config.vocab_size = 1024
    config.model = ConfigDict({"model_type": "llama", "dim": 128, "layers": 4, "heads": 4})
    config.model.update(kv_heads=4, head_dim=32, ff_dim=384, max_length=512, tied=True)
    config.length = 128  # tokens of a row
    config.seed = 0
    config.steps = 600
    config.batch_size = 16
    config.optimizer = ConfigDict({"name": "adamw", "learning_rate": 4e-3, "schedule": "cosine"})
    config.optimizer.update(warmup=0.05, weight_decay=0.1, clip=1.0, b2=0.95)
    config.optimizer.no_decay = (".*norm",)
    config.evaluation_rows = 512  # of the texts held out, evenly spread over them
    config.evaluation_batch_size = 64
    config.evaluate_every = 150  # steps
    config.checkpoint_every = 300
    config.keep = 1  # checkpoints
    config.lock()
    return config


class Corpus(NamedTuple):
    """Texts as rows of tokens.

    Attributes:
      task: the texts.
      tokenizer: learnt from those to train on.
      train: rows to train on.
      test: rows of the texts held out.
      tokens_per_character: of the texts held out.
      unigram_loss: of the rows held out by the frequencies of tokens alone, in nats a token.
      sha256: of the texts to train on.
    """

    task: TextTask
    tokenizer: hub.Tokenizer
    train: Rows
    test: Rows
    tokens_per_character: float
    unigram_loss: float
    sha256: str


def main(config: ConfigDict, workdir: Path | None) -> None:
    """Trains, or prints the plan if there is no workdir."""
    console = Console(highlight=False, soft_wrap=True)
    check_counts(config, "steps", "evaluation_rows")
    described = describe_model(config)
    if config.length > described.max_length:
        raise ValueError(
            f"length = {config.length}, but the model reads at most {described.max_length} tokens"
        )
    if workdir is not None:
        training.open_workdir(workdir, config.to_dict(), ignore=MAY_CHANGE)

    # ---- The corpus, and a tokenizer learnt from it
    with tempfile.TemporaryDirectory() as room:
        corpus = read_corpus(config, Path(room) if workdir is None else workdir / "tokenizer")
        batches = training_batches(corpus.train, config.batch_size, seed=config.seed)

    # ---- The model, all of which trains
    apply = models.build(described).apply
    key = jax.random.key(config.seed)
    fresh = partial(models.init, described)
    shapes = {"params": jax.eval_shape(fresh, key)}
    labels = training.label(shapes, RULES["full"])
    optimizer = training.make_optimizer(config.optimizer, labels, config.steps)
    base = hub.Pretrained(apply, shapes["params"], described, corpus.tokenizer, Path())
    outputs = make_outputs(base, None)
    step = training.make_step(partial(loss, outputs), optimizer)
    parameters = sum(math.prod(x.shape) for x in jax.tree.leaves(shapes))
    console.print(
        f"{parameters:,} parameters; {corpus.train['ids'].size:,} tokens to train on, "
        f"{corpus.test['ids'].size:,} held out; {config.steps} steps of "
        f"{config.batch_size * config.length:,} tokens"
    )
    start = lambda key: training.init_state({"params": fresh(key)}, labels, optimizer, key)
    if workdir is None:
        state, frozen = jax.eval_shape(start, key)
        console.print(plan.describe_cost(step, state, frozen, next(batches)))
        first = corpus.tokenizer.decode(corpus.train["ids"][0])
        console.print(f"the first row: {first!r}", markup=False)
        return

    # ---- Training
    state, frozen = jax.jit(start)(key)
    identity = training.describe_run(
        base=corpus.sha256, method=None, targets=(), train="from scratch", seed=config.seed
    )
    evaluate = partial(score, jax.jit(outputs), corpus.test, config.evaluation_batch_size)
    result = training.train(
        step,
        state,
        frozen,
        batches,
        steps=config.steps,
        workdir=workdir,
        identity=identity,
        evaluate=evaluate,
        evaluate_every=config.evaluate_every,
        checkpoint_every=config.checkpoint_every,
        keep=config.keep,
        console=console,
    )

    # ---- The files, and what they hold when they are loaded again
    directory = hub.save_model(
        workdir / "model", described, result.state.trainable["params"], overwrite=True
    )
    corpus.tokenizer.save(directory)
    loaded = hub.load_model(directory)
    scores = score(
        jax.jit(make_outputs(loaded, None)),
        corpus.test,
        config.evaluation_batch_size,
        {"params": loaded.params},
    )
    found = Pretraining(
        parameters=parameters,
        tokens_seen=config.steps * config.batch_size * config.length,
        passes=config.steps * config.batch_size / count(corpus.train),
        **scores,
        bits_per_character=scores["loss"] / math.log(2) * corpus.tokens_per_character,
        unigram_loss=corpus.unigram_loss,
        uniform_loss=math.log(config.vocab_size),
        params_sha256=hub.hash_params(loaded.params),
        file_sha256=hub.hash_file(directory / "model.safetensors"),
        tokenizer_sha256=hub.hash_file(directory / "tokenizer.json"),
        corpus_sha256=corpus.sha256,
    )
    write_report(workdir, config, corpus.task, result, found)
    console.print(
        f"test loss {found.loss:.4f} nats a token, {found.bits_per_character:.3f} bits a "
        f"character; {directory}; {workdir / 'report.html'}"
    )


def describe_model(config: ConfigDict) -> DecoderConfig:
    """The decoder's config; layers are unrolled, which is faster for few of them on a CPU."""
    return DecoderConfig(
        **config.model.to_dict(),
        vocab_size=config.vocab_size,
        bos_id=None,
        eos_ids=(0,),
        scan=False,
    )


def read_corpus(config: ConfigDict, directory: Path) -> Corpus:
    """Reads the texts, and learns a tokenizer from those to train on, into `directory`."""
    task = load_text_task(config.task.name, config.task.options.to_dict())
    train, test = ([record.answer for record in side] for side in (task.train, task.test))
    if not all(train):
        raise ValueError(f"task {task.name!r} is no texts to learn as they are: try 'stdlib_code'")
    tokenizer = train_tokenizer(directory, train, config.vocab_size)
    if tokenizer.vocab_size != config.vocab_size:
        raise ValueError(
            f"vocab_size = {config.vocab_size}, but the texts give {tokenizer.vocab_size} tokens"
        )
    end = tokenizer.eos_id
    assert end is not None  # it was made with one
    rows, held_out = (
        cut_stream(tokenizer.encode_ragged(side), config.length, end) for side in (train, test)
    )
    evaluated = spread(held_out, config.evaluation_rows)
    characters, tokens = sum(map(len, test)), sum(map(len, tokenizer.encode_ragged(test)))
    return Corpus(
        task=task,
        tokenizer=tokenizer,
        train=rows,
        test=evaluated,
        tokens_per_character=tokens / characters,
        unigram_loss=unigram_loss(rows["ids"], evaluated["ids"], config.vocab_size),
        sha256=hashlib.sha256("\0".join(train).encode()).hexdigest(),
    )


def spread(rows: Rows, most: int) -> Rows:
    """At most so many rows, evenly spread: those of one text stand side by side."""
    total = count(rows)
    chosen = np.arange(min(most, total)) * total // min(most, total)
    return {name: values[chosen] for name, values in rows.items()}


def unigram_loss(train: np.ndarray, test: np.ndarray, vocab_size: int) -> float:
    """The loss of a model that knows how frequent tokens are, and nothing else (add-one)."""
    counts = np.bincount(train.ravel(), minlength=vocab_size) + 1.0
    return float(-np.log(counts / counts.sum())[test[:, 1:]].mean())


if __name__ == "__main__":
    launch(main)
