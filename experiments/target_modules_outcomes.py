"""What sets of target modules achieve, and what others have published about them.

Published figures are of other models, tasks and machines: what is compared is their direction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

from experiments.target_modules_runs import BASE, HEAD
from lora_jax.analysis import Candidate, pareto_front
from lora_jax.evaluation import Interval, ResponseTimes, mean_interval, paired_interval
from lora_jax.reports import brackets

AMAZON = "Amazon Science, 19 March 2026: Nova 2.0 Lite, seven data sets"
LORA = "Hu et al. 2021, LoRA, table 5: GPT-3 175B, equal parameters"
REGRET = "Schulman et al. 2025, LoRA Without Regret"
QLORA = "Dettmers et al. 2023, QLoRA"
LESS = "Biderman et al. 2024, LoRA Learns Less and Forgets Less"
PEFT = "PEFT's method_comparison: Llama-3.2-3B, GSM8K, one seed, equal parameters"
RAG = "arXiv 2605.28222: Llama 3B and 8B, retrieval-augmented answers"

ALL, MLP, ATTENTION, QV = "all-linear", "fc1+fc2", "qkv+o_proj", "q_proj+v_proj"


class Outcome(NamedTuple):
    """What a choice achieved, one score a seed, and what it costs.

    Attributes:
      name: "o_proj+fc2", or one of `REFERENCES`.
      rank: of its adapter; None of a reference.
      parameters: of its adapter, or of what a reference trains; a head beside it not counted.
      rate: its learning rate.
      scores: on the test set, one a seed; of an adapter once it is merged.
      unmerged_score: the first seed's with the adapter beside the frozen weights, where asked for.
      losses: of training, one list a seed.
      unmerged: times with the adapter beside the frozen weights.
      merged: times with the adapter in them.
      base: times of the base alone, in the same rounds.
    """

    name: str
    rank: int | None
    parameters: int
    rate: float
    scores: tuple[float, ...]
    unmerged_score: float | None
    losses: Sequence[Sequence[float]]
    unmerged: ResponseTimes
    merged: ResponseTimes
    base: ResponseTimes

    @property
    def label(self) -> str:
        """Name and rank."""
        return self.name if self.rank is None else f"{self.name} r{self.rank}"

    @property
    def score(self) -> Interval:
        """Mean score and its interval over the seeds."""
        return mean_interval(self.scores)

    @property
    def slower(self) -> tuple[float, float, float]:
        """Latency over the base's: TPOT, or TTFT of a model that writes nothing."""
        return self.unmerged.main.ratio_to(self.base.main)

    def by_latency(self) -> Candidate:
        """Score against milliseconds, unmerged."""
        costs = tuple(1000 * self.unmerged.main.seconds)
        return Candidate(self.label, self.scores, costs, self.parameters)

    def by_parameters(self) -> Candidate:
        """Score against parameters."""
        return Candidate(self.label, self.scores, (float(self.parameters),), self.parameters)


Outcomes = Sequence[Outcome]
Study = Mapping[str, Outcomes]
"""The outcomes of each control, those of sets of targets alone."""


def find(outcomes: Outcomes, name: str) -> Outcome | None:
    """The outcome of a set; None if it was not tried."""
    return next((outcome for outcome in outcomes if outcome.name == name), None)


def difference(first: Outcome, second: Outcome) -> Interval:
    """How much better the first is, seed by seed."""
    return paired_interval(first.scores, second.scores)


class Claim(NamedTuple):
    """A published claim and what was found.

    Attributes:
      published: what it says, with its figures.
      source: who says it, of what.
      measured: what was found here.
      agrees: "yes", "no", or "cannot be told" where intervals are too wide.
    """

    published: str
    source: str
    measured: str
    agrees: str


def compare_claims(study: Study, references: Outcomes) -> list[Claim]:
    """Holds each published claim against what was measured, where its sets were tried.

    Args:
      study: outcomes of each control, all with the same seeds.
      references: the head alone, and full fine-tuning.
    """
    compare = partial(_compare, study)
    return [
        *compare(
            "o_proj+fc2 beats o_proj by 1 to 3 points as a rule, on CoCoHD by 12 (o_proj 3 and "
            "o_proj+fc2 15 points over the base)",
            AMAZON,
            ("o_proj+fc2", "o_proj"),
        ),
        *_within_two_percent(study),
        *_best_single(study),
        *_all_beat_the_base(study, references),
        *_p95(study),
        *_merged(study),
        *compare(
            "q and v at rank 4 (73.7/91.3) are a little better than o alone at rank 8 (73.2/91.3)",
            LORA,
            (QV, "o_proj"),
            ("parameters",),
        ),
        *compare(
            "adapting the MLP alone beats adapting attention alone at equal parameters",
            REGRET,
            (MLP, ATTENTION),
            ("parameters",),
        ),
        *compare("all layers beat the MLP alone, and that beats attention", LESS, (ALL, MLP)),
        *compare("all linear layers are needed, q and v do not do", QLORA, (ALL, QV), ("rank",)),
        *compare(
            "the MLP at rank 10 (49.4 %) beats q and v at rank 32 (47.8 %)",
            PEFT,
            (MLP, QV),
            ("parameters",),
        ),
        *_front(study),
    ]


def _compare(
    study: Study,
    published: str,
    source: str,
    sets: tuple[str, str],
    controls: Sequence[str] = ("rank", "parameters", "latency"),
) -> list[Claim]:
    """Whether the first set is better than the second, under each control."""
    found = []
    for control in controls:
        first, second = (find(study.get(control, ()), name) for name in sets)
        if first and second:
            found.append((control, difference(first, second)))
    if not found:
        return []
    measured = "; ".join(f"equal {control}: {brackets('+.3f')(gap)}" for control, gap in found)
    verdicts = {_verdict(gap) for _, gap in found}
    text = f"{sets[0]} minus {sets[1]}, {measured}"
    return [Claim(published, source, text, _agreed(verdicts))]


def _within_two_percent(study: Study) -> list[Claim]:
    outcomes = study.get("rank", ())
    first, second = find(outcomes, "o_proj"), find(outcomes, "o_proj+fc2")
    if not (first and second) or second.score.mean <= 0:
        return []
    gap = difference(first, second)
    scale = 100 / second.score.mean
    low, high = (abs(end) * scale for end in (gap.low, gap.high))
    agrees = "yes" if max(low, high) <= 2 else "no" if gap.high * scale < -2 else "cannot be told"
    return [
        Claim(
            "o_proj is within 2 % of o_proj+fc2 in mean accuracy: it is the default",
            AMAZON,
            f"o_proj is {gap.mean * scale:+.1f} % [{gap.low * scale:+.1f}, "
            f"{gap.high * scale:+.1f}] from o_proj+fc2 at equal rank, on this one task",
            agrees,
        )
    ]


def _best_single(study: Study) -> list[Claim]:
    singles = ("o_proj", "fc1", "fc2", "qkv")
    found = [o for name in singles if (o := find(study.get("rank", ()), name))]
    ours = find(found, "o_proj")
    if ours is None or len(found) < 2:
        return []
    ordered = sorted(found, key=lambda outcome: -outcome.score.mean)
    gaps = [difference(ours, other) for other in ordered if other is not ours]
    beaten = [_verdict(gap) for gap in gaps]
    agrees = "no" if "no" in beaten else "yes" if set(beaten) == {"yes"} else "cannot be told"
    scores = ", ".join(f"{outcome.name} {outcome.score.mean:.3f}" for outcome in ordered)
    return [Claim("o_proj is the best single module", AMAZON, f"at equal rank: {scores}", agrees)]


def _all_beat_the_base(study: Study, references: Outcomes) -> list[Claim]:
    base, outcomes = find(references, HEAD) or find(references, BASE), study.get("rank", ())
    if base is None or not outcomes:
        return []
    verdicts = {outcome.name: _verdict(difference(outcome, base)) for outcome in outcomes}
    better = [name for name, verdict in verdicts.items() if verdict == "yes"]
    worse = [name for name, verdict in verdicts.items() if verdict == "no"]
    agrees = "no" if worse else "yes" if len(better) == len(verdicts) else "cannot be told"
    untold = len(verdicts) - len(better) - len(worse)
    return [
        Claim(
            "every set beats the base on every task",
            AMAZON,
            f"at equal rank, of {len(verdicts)} sets {len(better)} beat it ({base.name}), "
            f"{len(worse)} fall behind it, {untold} cannot be told from it",
            agrees,
        )
    ]


def _p95(study: Study) -> list[Claim]:
    outcomes = study.get("rank", ())
    cheap, dear = find(outcomes, "o_proj"), find(outcomes, "o_proj+fc2")
    if not (cheap and dear):
        return []
    what = "the time of a forward pass" if cheap.unmerged.token is None else "TPOT"
    ours, theirs = cheap.unmerged.main, dear.unmerged.main
    ratio, low, high = ours.p95_ratio_to(theirs)
    median = ours.ratio_to(theirs)[0]
    saved = f"{100 * (1 - ratio):.1f} % [{100 * (1 - high):.1f}, {100 * (1 - low):.1f}]"
    agrees = "yes" if high < 1 else "no" if low > 1 else "cannot be told"
    return [
        Claim(
            "TPOT p95 of o_proj is 22.6 % lower than of o_proj+fc2, unmerged (7.803 and 10.085 ms)",
            AMAZON,
            f"p95 of {what} is {saved} lower, its median {100 * (1 - median):.1f} %",
            agrees,
        )
    ]


def _merged(study: Study) -> list[Claim]:
    outcomes = study.get("rank", ())
    if not outcomes:
        return []
    ratios = [o.merged.main.ratio_to(o.base.main) for o in outcomes]
    differ = sum(low > 1 for _, low, _ in ratios)
    medians = [ratio for ratio, _, _ in ratios]
    return [
        Claim(
            "a merged adapter costs no latency",
            "Hu et al. 2021, LoRA, table 1",
            f"merged over base: {min(medians):.3f} to {max(medians):.3f}; "
            f"{differ} of {len(ratios)} intervals lie above 1",
            # One interval in forty lies above by chance.
            "yes" if max(medians) < 1.02 else "no" if differ > 1 else "cannot be told",
        )
    ]


def _front(study: Study) -> list[Claim]:
    outcomes = study.get("rank", ())
    if find(outcomes, QV) is None:
        return []
    front = [choice.name for choice in pareto_front([o.by_latency() for o in outcomes])]
    on_it = any(name.startswith(f"{QV} ") for name in front)
    return [
        Claim(
            "q and v dominate the front of quality, latency and memory",
            RAG,
            f"the front of mean score and unmerged latency at equal rank: {', '.join(front)}",
            "yes" if on_it and len(front) <= 2 else "in part" if on_it else "no",
        )
    ]


def _verdict(gap: Interval) -> str:
    return "yes" if gap.low > 0 else "no" if gap.high < 0 else "cannot be told"


def _agreed(verdicts: set[str]) -> str:
    if len(verdicts) == 1:
        return next(iter(verdicts))
    told = verdicts - {"cannot be told"}
    return "it depends on the control" if len(told) > 1 else f"{next(iter(told))}, in part"
