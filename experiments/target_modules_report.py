"""What `target_modules` leaves: tables in the terminal, results.json and report.html."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict
from rich.console import Console

from experiments.subject import Subject
from experiments.target_modules_choices import (
    Rate,
    choose,
    describe_choice,
    recommend_budgets,
    sentence,
)
from experiments.target_modules_outcomes import Outcome, Outcomes, Study, compare_claims
from experiments.target_modules_runs import REFERENCES
from lora_jax import reports
from lora_jax.analysis import Recommendation, pareto_front
from lora_jax.evaluation import ResponseTimes
from lora_jax.reports import (
    Column,
    Curve,
    Panel,
    Section,
    curves_plot,
    html,
    milliseconds,
    plus_minus,
    print_table,
    response_table,
    tradeoff_panels,
)

HEADINGS = {
    "rank": "At equal rank",
    "parameters": "At equal parameters",
    "latency": "At equal latency",
}
FORWARD, DECODING = "the time of a forward pass (TTFT)", "TPOT, the time of an output token"
SCORES = (
    "± is the 95 % t-interval of the mean over {seeds} seeds; a seed sets the new weights and the "
    "order of the examples, so that all sets see the same. {steps} steps of {batch} examples. "
    "Scores are of merged adapters; the column unmerged is the first seed's with the adapter "
    "beside the frozen weights. {rates} The test set is looked at only afterwards. Parameters are "
    "those of the adapter, without the head that every choice trains."
)
TRADEOFF = (
    "Up and to the left is better. Bars are 95 % intervals: of the mean score over the seeds, and "
    "of the median latency, unmerged. Hollow: the references, which keep the latency of the base. "
    "At equal latency the front is the highest point."
)
LATENCY = (
    "Milliseconds, batch {rows}, {rounds} rounds; in each, all take a turn in random order. "
    "{what} Over the base: the median of the ratios round by round, and its 95 % interval. Merged, "
    "an adapter is part of the weights, and every set runs the program of the base."
)
ENCODER = "TTFT is the time of one forward pass of {length} tokens."
DECODER = (
    "TTFT is the time to read a prompt and choose a token; TPOT that of each later one of "
    "{new} tokens, with the KV cache; one value an answer."
)
EQUAL_LATENCY = (
    "The largest rank that was timed ({ranks}, and those of the other controls) whose median "
    "latency is at most {over:.0%} above the base's; its interval stands in the table of "
    "latencies. {missing}"
)
CLAIMS = (
    "Published figures come from other models, tasks and machines. What is compared is the "
    "direction, by differences seed by seed and their 95 % intervals."
)


def write_report(
    workdir: Path,
    config: ConfigDict,
    subject: Subject,
    study: Study,
    references: Outcomes,
    rates: Mapping[str, Rate],
    times: Mapping[str, ResponseTimes],
) -> None:
    """Writes results.json and report.html."""
    claims, budgets = compare_claims(study, references), recommend_budgets(config, study)
    chosen = {control: choose(control, outcomes) for control, outcomes in study.items()}
    results = {
        "task": subject.task,
        "metric": subject.metric,
        "controls": {control: [_plain(o) for o in of] for control, of in study.items()},
        "references": [_plain(o) for o in references],
        "recommended": chosen,
        "fronts": {
            control: [choice.name for choice in pareto_front([o.by_latency() for o in of])]
            for control, of in study.items()
        },
        "budgets": budgets,
        "published": claims,
        "rates": rates,
        "latency": times,
    }
    tables = []
    for control, outcomes in study.items():
        pieces = _control_pieces(config, subject, outcomes, references, chosen[control])
        if control == "latency":
            pieces.append(html.paragraph(_who_keeps_within(config, outcomes, rates)))
        tables.append(Section(HEADINGS[control], pieces))
    reports.write_report(
        workdir,
        "target_modules",
        config.to_dict(),
        results,
        title="Which modules should LoRA adapt?",
        sections=[
            *tables,
            Section("Trade-offs", [_tradeoffs(subject, study, references, chosen)]),
            Section("Within a budget", [html.table(budgets, BUDGETS)]),
            Section("Latency", _latency_pieces(config, times)),
            Section("Published claims", [html.table(claims, CLAIM), html.paragraph(CLAIMS)]),
            Section("Learning rates", [html.table(_rate_rows(rates), RATES)]),
            Section("Learning curves", [_curves(config, study, references)]),
            Section("Task", [html.paragraph(line) for line in describe(subject).splitlines()]),
        ],
        lead=f"{config.model.name} on {subject.task}, scored by {subject.metric}: "
        f"{config.steps} steps of {config.batch_size} examples, {len(config.seeds)} seeds.",
        finding=" ".join(f"{HEADINGS[c]}: {sentence(r)}" for c, r in chosen.items()),
    )


def print_study(
    console: Console, config: ConfigDict, subject: Subject, study: Study, references: Outcomes
) -> None:
    """Prints a table for each control, and what is recommended."""
    for control, outcomes in study.items():
        rows = [*map(_row, outcomes), *map(_row, references)]
        columns = columns_of(subject)[:IN_TERMINAL]
        print_table(rows, columns, title=HEADINGS[control], console=console)
        console.print(sentence(choose(control, outcomes)), markup=False)
    for budget in recommend_budgets(config, study):
        console.print(f"{budget.budget}: {budget.recommended}", markup=False)


def describe(subject: Subject) -> str:
    """The task, and how many of the test examples are used."""
    return f"{subject.shown}\n  scored on {subject.tests:,} test examples, evenly spread"


BUDGETS = [
    Column("budget", "budget"),
    Column("recommended", "recommended"),
    Column("reason", "why"),
]
CLAIM = [
    Column("published", "published"),
    Column("source", "source"),
    Column("measured", "measured here"),
    Column("agrees", "agrees"),
]
RATES = [
    Column("name", "targets"),
    Column("chosen", "chosen", "{:g}"),
    Column("losses", "validation loss of each"),
]


def columns_of(subject: Subject) -> list[Column]:
    """The columns of a control's table; a terminal has room for the first few."""
    return [
        Column("name", "targets"),
        Column("rank", "rank", "{}"),
        Column("parameters", "parameters", "{:,}"),
        Column("score", subject.metric, plus_minus(3)),
        Column("p50", "unmerged ms", milliseconds),
        Column("slower", "over base", "{:+.1f} %"),
        *(
            Column("p95", "p95", "{:.3g}"),
            Column("merged", "merged ms", milliseconds),
            Column("unmerged_score", "score unmerged", "{:.3f}"),
            Column("rate", "learning rate", "{:g}"),
        ),
    ]


IN_TERMINAL = 6


def _row(outcome: Outcome) -> dict[str, Any]:
    """What the table shows of an outcome."""
    unmerged = outcome.unmerged.main
    return {
        **outcome._asdict(),
        "score": outcome.score,
        "p50": unmerged,
        "p95": 1000 * unmerged.p95,
        "slower": 100 * (outcome.slower[0] - 1) if outcome.rank else None,
        "merged": outcome.merged.main,
    }


def _plain(outcome: Outcome) -> dict[str, Any]:
    """What results.json holds of an outcome; the times themselves stand there once."""
    left_out = {"unmerged", "merged", "base"}
    fields = {name: value for name, value in outcome._asdict().items() if name not in left_out}
    unmerged = outcome.unmerged.main
    return {
        **fields,
        "score": outcome.score,
        "unmerged_ms": {"p50": 1000 * unmerged.median, "p95": 1000 * unmerged.p95},
        "over_base": dict(zip(("ratio", "low", "high"), outcome.slower, strict=True)),
    }


def _control_pieces(
    config: ConfigDict,
    subject: Subject,
    outcomes: Outcomes,
    references: Outcomes,
    chosen: Recommendation,
) -> list[str]:
    rows = [*map(_row, outcomes), *map(_row, references)]
    notes = SCORES.format(
        seeds=len(config.seeds),
        steps=config.steps,
        batch=config.batch_size,
        rates=describe_choice(config),
    )
    return [
        html.table(rows, columns_of(subject), highlight=chosen.name.rpartition(" r")[0]),
        html.paragraph(sentence(chosen)),
        html.paragraph(notes),
    ]


def _who_keeps_within(config: ConfigDict, outcomes: Outcomes, sets: Iterable[str]) -> str:
    """How the ranks of equal latency were found, and which sets have none."""
    tried = {*REFERENCES, *(outcome.name for outcome in outcomes)}
    missing = ", ".join(name for name in sets if name not in tried)
    return EQUAL_LATENCY.format(
        ranks=", ".join(map(str, config.equal_latency.ranks)),
        over=config.equal_latency.over_base,
        missing=f"No rank keeps within it: {missing}." if missing else "Every set has one.",
    )


def _tradeoffs(
    subject: Subject, study: Study, references: Outcomes, chosen: Mapping[str, Recommendation]
) -> str:
    panels = [
        Panel(
            HEADINGS[control],
            [outcome.by_latency() for outcome in outcomes],
            [outcome.by_latency() for outcome in references],
            chosen[control].name,
        )
        for control, outcomes in study.items()
    ]
    what = FORWARD if references[0].base.token is None else DECODING
    plot = tradeoff_panels(panels, x_label=f"{what}, unmerged, ms", y_label=subject.metric)
    return html.figure(plot, TRADEOFF)


def _latency_pieces(config: ConfigDict, times: Mapping[str, ResponseTimes]) -> list[str]:
    """Every measured time: p50 and p95, and what that is over the base."""
    what = ENCODER.format(length=config.length)
    if times["base"].token is not None:
        what = DECODER.format(new=config.latency.new_tokens)
    said = LATENCY.format(rows=config.latency.batch_size, rounds=config.latency.rounds, what=what)
    return [html.table(*response_table(times, "base")), html.paragraph(said)]


def _rate_rows(rates: Mapping[str, Rate]) -> list[dict[str, Any]]:
    """The validation losses, in words."""
    none = "none: a single rate was given"
    return [
        {
            "name": name,
            "chosen": rate.chosen,
            "losses": ", ".join(f"{r:g}: {x:.4f}" for r, x in rate.losses.items()) or none,
        }
        for name, rate in rates.items()
    ]


def _curves(config: ConfigDict, study: Study, references: Outcomes) -> str:
    """Training losses of the first control."""
    outcomes = [*next(iter(study.values())), *references]
    steps, window = range(1, config.steps + 1), max(1, config.steps // 15)
    curves = [Curve(o.label, steps, _filled(o.losses)) for o in outcomes if len(o.losses[0])]
    caption = (
        f"Training loss over {window} steps, {HEADINGS[next(iter(study))].lower()}: the mean over "
        "the seeds, and their range."
    )
    return html.figure(curves_plot(curves, window=window), caption)


def _filled(losses: Sequence[Sequence[float | None]]) -> list[list[float]]:
    """The log has no NaN."""
    return [[float("nan") if loss is None else loss for loss in run] for run in losses]
