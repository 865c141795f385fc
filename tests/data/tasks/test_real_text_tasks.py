"""Text-to-text tasks whose real files are here: the official counts, and known records."""

import collections
import json

import pytest

from lora_jax.data import load_task, load_text_task
from lora_jax.data.tasks.sroie import read_boxes
from lora_jax.data.text_task import open_image
from lora_jax.evaluation import METRICS

pytestmark = pytest.mark.needs_data

# (training, validation, test) records, as published unless a comment says otherwise.
COUNTS = {
    "e2e_nlg": (42061, 547, 630),
    "gsm8k": (7473, 0, 1319),
    "medmcqa": (3331, 0, 852),  # the validation file's 4,183, split here
    "sroie": (76, 0, 24),  # 100 of the 626 receipts, split here
}
OPTIONS = {"medmcqa": {"split": "validation"}}


@pytest.fixture(scope="module")
def tasks(data_dir):
    return {
        name: load_text_task(name, {"directory": data_dir / name, **OPTIONS.get(name, {})})
        for name in COUNTS
    }


@pytest.mark.parametrize("name", COUNTS)
def test_real_files_are_read_whole(name, tasks):
    task = tasks[name]
    assert (len(task.train), len(task.validation), len(task.test)) == COUNTS[name]
    assert not task.skipped
    for record in (*task.train, *task.validation, *task.test):
        assert record.answer.strip()
        assert record.prompt.strip()
        assert record.place


def test_e2e_groups_the_references_of_each_meaning_representation(tasks):
    task = tasks["e2e_nlg"]
    assert task.test[0].prompt == "name : Blue Spice | eatType : coffee shop | area : city centre"
    assert task.test[0].references == (
        "A coffee shop in the city centre area called Blue Spice.",
        "Blue Spice is a coffee shop in city centre.",
    )
    assert sum(len(record.references) for record in task.test) == 4693
    assert sum(len(record.references) for record in task.validation) == 4672
    prompts = [record.prompt for record in task.test]
    assert len(set(prompts)) == len(prompts)
    assert not set(prompts) & {record.prompt for record in task.train}


def test_gsm8k_ends_in_a_number_and_its_annotations_can_go(tasks, data_dir):
    task = tasks["gsm8k"]
    assert task.train[0].fields == {"final": "72"}
    assert all(r.answer.endswith(f"#### {r.fields['final']}") for r in task.train + task.test)
    plain = load_text_task("gsm8k", {"directory": data_dir / "gsm8k", "calculator": False})
    assert plain.train[0].answer == (
        "Natalia sold 48/2 = 24 clips in May.\n"
        "Natalia sold 48+24 = 72 clips altogether in April and May.\n#### 72"
    )
    assert not any("<<" in record.answer for record in plain.train)
    short = load_text_task("gsm8k", {"directory": data_dir / "gsm8k", "steps": False})
    assert {r.answer for r in short.test} == {f"#### {r.fields['final']}" for r in short.test}
    finals = collections.Counter(record.fields["final"] for record in short.test)
    assert finals.most_common(1) == [("5", 40)]  # 3.0 % for the likeliest number


def test_medmcqa_counts_options_from_one_in_the_original_file(tasks, data_dir):
    task = tasks["medmcqa"]
    answers = collections.Counter(record.answer for record in task.train + task.test)
    assert answers == {"A": 1348, "B": 1085, "C": 925, "D": 825}  # 32.2 % for the majority
    with (data_dir / "medmcqa" / "dev.json").open() as file:
        first = json.loads(next(file))
    record = next(r for r in task.train + task.test if r.place.endswith("line 1"))
    assert first["cop"] == 1
    assert record.answer == "A"
    assert f"A. {first['opa']}\nB. {first['opb']}" in record.prompt


def test_medmcqa_without_its_training_file_says_where_to_get_it(data_dir):
    with pytest.raises(FileNotFoundError, match=r"no train.json .*medmcqa.* archive"):
        load_text_task("medmcqa", {"directory": data_dir / "medmcqa"})


@pytest.mark.parametrize(
    ("name", "counts", "labels"),
    [
        ("cocohd_relevancy", (640, 160, 200), (291, 709)),
        ("cocohd_inc_dec", (453, 114, 142), (133, 183, 393)),
    ],
)
@pytest.mark.parametrize("seed", [5768, 78516, 944601])
def test_cocohd_has_the_published_counts_and_split(name, counts, labels, seed, data_dir):
    task = load_task(name, {"directory": data_dir / "cocohd", "seed": seed})
    assert (len(task.train), len(task.validation), len(task.test)) == counts
    everything = collections.Counter(r.label for r in task.train + task.validation + task.test)
    assert tuple(everything[i] for i in range(len(task.classes))) == labels
    assert "published seed" in task.about


def test_the_published_test_set_of_cocohd_is_that_of_scikit_learn(data_dir):
    model_selection = pytest.importorskip("sklearn.model_selection")
    task = load_task("cocohd_inc_dec", {"directory": data_dir / "cocohd", "seed": 5768})
    train, test = model_selection.train_test_split(range(709), test_size=0.2, random_state=5768)
    lines = (data_dir / "cocohd" / "inc_dec_classifier_labeled_data_709_v2.csv").read_text()
    sentences = [line.rpartition(",")[0].strip('"') for line in lines.splitlines()[1:]]
    assert [record.text for record in task.test] == [sentences[i] for i in test]
    assert {r.text for r in task.train + task.validation} == {sentences[i] for i in train}


def test_texts_in_sroies_boxes_keep_their_commas(data_dir):
    boxes = read_boxes(data_dir / "sroie" / "box" / "000.csv")
    assert boxes[3] == (
        (110, 144, 383, 144, 383, 163, 110, 163),
        "NO.53 55,57 & 59, JALAN SAGU 18,",
    )
    for path in (data_dir / "sroie" / "box").glob("*.csv"):
        assert all(len(corners) == 8 and word for corners, word in read_boxes(path))


def test_sroie_shows_the_picture_or_what_was_read_off_it(tasks, data_dir):
    record = tasks["sroie"].test[0]
    assert json.loads(record.answer) == record.fields["entities"]
    assert list(json.loads(record.answer)) == ["company", "date", "address", "total"]
    assert open_image(record.images[0]).mode == "RGB"
    text = load_text_task("sroie", {"directory": data_dir / "sroie", "show": "text"}).test[0]
    assert not text.images
    assert record.fields["entities"]["date"] in text.prompt
    both = load_text_task("sroie", {"directory": data_dir / "sroie", "show": "both"}).test[0]
    assert (both.prompt, both.images) == (text.prompt, record.images)


def test_an_entity_that_a_receipt_lacks_is_empty(tasks):
    records = tasks["sroie"].train + tasks["sroie"].test
    empty = [r.place[-8:] for r in records if not all(r.fields["entities"].values())]
    assert empty == ["033.json"]


def test_no_record_is_on_two_sides(tasks):
    for name in ("gsm8k", "medmcqa", "sroie"):
        train, test = ({r.place for r in side} for side in (tasks[name].train, tasks[name].test))
        assert not train & test, name


@pytest.mark.parametrize("name", COUNTS)
def test_a_perfect_prediction_scores_the_most_and_an_empty_one_does_not_crash(name, tasks):
    task = tasks[name]
    records = task.test[:40]
    references = [record.accepted for record in records]
    for metric in task.metrics:
        measure = METRICS[metric]
        perfect = measure([texts[0] for texts in references], references)
        assert perfect > measure(["" for _ in records], references)
        if metric in ("final_answer", "choice", "entity_f1", "anls"):
            assert perfect == 1
