"""What `pretrain` leaves: results.json for programs, report.html for people."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from lora_jax import reports, training
from lora_jax.data import TextTask
from lora_jax.reports import Column, Section, curves_plot, html, metric_curve

CONTROLS = (
    "Uniform: every token equally likely. Frequencies: tokens as often as in the training text, "
    "whatever stands before. The loss is that of the saved files, loaded again."
)


class Pretraining(NamedTuple):
    """What a run from scratch came to, on the texts held out.

    Attributes:
      parameters: of the model.
      tokens_seen: in training.
      passes: over the training texts.
      loss: in nats a token.
      perplexity: of a token.
      token_accuracy: how often the likeliest token is right.
      bits_per_character: the loss in a unit that does not depend on the tokenizer.
      unigram_loss: of the frequencies of tokens alone.
      uniform_loss: of knowing nothing.
      params_sha256: `hub.hash_params` of the weights.
      file_sha256: of model.safetensors.
      tokenizer_sha256: of tokenizer.json.
      corpus_sha256: of the training texts, which depend on the version of Python.
    """

    parameters: int
    tokens_seen: int
    passes: float
    loss: float
    perplexity: float
    token_accuracy: float
    bits_per_character: float
    unigram_loss: float
    uniform_loss: float
    params_sha256: str
    file_sha256: str
    tokenizer_sha256: str
    corpus_sha256: str


def write_report(
    workdir: Path,
    config: ConfigDict,
    task: TextTask,
    result: training.Result,
    found: Pretraining,
) -> None:
    """Writes results.json and report.html."""
    rows = [
        {"model": "uniform", "loss": found.uniform_loss},
        {"model": "frequencies of tokens", "loss": found.unigram_loss},
        {"model": "this one", "loss": found.loss, "bits": found.bits_per_character},
    ]
    columns = [
        Column("model", "model"),
        Column("loss", "nats a token", "{:.4f}"),
        Column("bits", "bits a character", "{:.3f}"),
    ]
    hashes = {name: value for name, value in found._asdict().items() if name.endswith("_sha256")}
    curves = [metric_curve(result.rows, name) for name in ("loss", "eval/loss")]
    reports.write_report(
        workdir,
        "pretrain",
        config.to_dict(),
        found._asdict(),
        title=f"A decoder of {found.parameters:,} parameters, from scratch",
        sections=[
            Section(
                "Texts held out",
                [html.table(rows, columns, highlight="this one"), html.paragraph(CONTROLS)],
            ),
            Section("Curves", [html.figure(curves_plot(curves), "In nats a token.")]),
            Section("Task", [html.paragraph(task.about)]),
            Section("Which files these are", [html.fields(hashes)]),
        ],
        lead=f"{found.tokens_seen:,} tokens of {task.name}, {found.passes:.2f} passes, seed "
        f"{config.seed}.",
        finding=f"{found.loss:.4f} nats a token, {found.bits_per_character:.3f} bits a character, "
        f"{found.token_accuracy:.1%} of the tokens right.",
    )
