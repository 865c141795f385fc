"""Sets whose data is not here: their readers, on records made to the published schemas."""

import json

import pytest
from data.chat_model import make_tokenizer
from data.tasks.built import BUILT, HUB, MMLU, STAGES, WIKISQL, arc_row, png, put, put_all

from lora_jax.data import TextEncoder, Turn, load_text_task
from lora_jax.data.audit import find_lost_answers
from lora_jax.data.registry import TEXT_TASKS
from lora_jax.data.text_task import open_image
from lora_jax.evaluation import METRICS


def load(name, directory, files=None, **options):
    put_all(directory, files or BUILT[name][0])
    return load_text_task(name, {"directory": directory, **options})


def sizes(task):
    return len(task.train), len(task.validation), len(task.test)


@pytest.mark.parametrize("name", BUILT)
def test_the_original_files_are_read_whole(name, tmp_path):
    assert sizes(load(name, tmp_path)) == BUILT[name][1]


@pytest.mark.parametrize("name", HUB)
def test_the_hubs_copies_are_read_whole(name, tmp_path):
    files, counts = HUB[name]
    assert sizes(load(name, tmp_path, files)) == counts


@pytest.mark.parametrize("name", BUILT)
@pytest.mark.parametrize("template", ["plain", "chat"])
def test_exactly_the_answers_are_trained(name, template, tmp_path):
    task = load(name, tmp_path / "data")
    tokenizer = make_tokenizer(tmp_path)
    encoder = TextEncoder(tokenizer=tokenizer, length=4096, template=template)
    records = [record._replace(images=()) for record in (*task.train, *task.test)]
    made = encoder.encode(records)
    assert len(made.examples) == len(records)
    assert not list(find_lost_answers(made, records, encoder))


@pytest.mark.parametrize("name", BUILT)
def test_a_perfect_prediction_scores_the_most(name, tmp_path):
    task = load(name, tmp_path)
    references = [record.accepted for record in task.test]
    for metric in task.metrics:
        measure = METRICS[metric]
        perfect = measure([texts[0] for texts in references], references)
        empty = measure(["" for _ in references], references)
        if metric != "cider":  # whose weights are all zero for as few texts as these
            assert (perfect < empty) == (metric == "ter")


@pytest.mark.parametrize("name", TEXT_TASKS)
def test_every_task_names_metrics_that_there_are(name, tmp_path):
    if name in BUILT:
        assert set(load(name, tmp_path).metrics) <= set(METRICS)


@pytest.mark.parametrize("name", BUILT)
def test_a_missing_file_says_where_it_was_looked_for_and_where_to_get_it(name, tmp_path):
    with pytest.raises(FileNotFoundError) as raised:
        load_text_task(name, {"directory": tmp_path / "nowhere"})
    assert f"looked in {tmp_path / 'nowhere'} (no directory)" in str(raised.value)
    assert "It comes from " in str(raised.value)


def test_medmcqa_counts_options_from_nought_on_the_hub(tmp_path):
    task = load("medmcqa", tmp_path, HUB["medmcqa"][0])
    assert [record.answer for record in task.test] == ["A", "B", "C", "D"]


def test_medmcqa_refuses_the_hubs_numbers_in_an_original_file(tmp_path):
    row = {"id": "1", "question": "?", "opa": "a", "opb": "b", "opc": "c", "opd": "d", "cop": 0}
    for name in ("train.json", "dev.json"):
        (tmp_path / name).write_text(json.dumps(row))
    with pytest.raises(ValueError, match=r"dev.json, line 1: cop is 0, .* is this a copy from"):
        load_text_task("medmcqa", {"directory": tmp_path})
    for name in ("train.json", "dev.json"):
        (tmp_path / name).write_text(json.dumps(row | {"cop": 5}))
    with pytest.raises(ValueError, match="index 4, but there are 4"):
        load_text_task("medmcqa", {"directory": tmp_path})


def test_mmlu_takes_subjects_from_the_names_of_files(tmp_path):
    task = load("mmlu", tmp_path)
    assert [record.fields["subject"] for record in task.test] == ["anatomy", "world_history"]
    assert [record.answer for record in task.test] == ["A", "D"]
    assert "B. 3, or so\n" in task.test[0].prompt
    assert load("mmlu", tmp_path, train="dev").train[0].fields["subject"] == "anatomy"


def test_mmlu_names_a_bad_line(tmp_path):
    files = MMLU | {"test/anatomy_test.csv": [["What?", "1", "2", "3", "E"]]}
    with pytest.raises(ValueError, match=r"anatomy_test.csv, line 1: expected a question, 4 opt"):
        load("mmlu", tmp_path, files)


def test_arc_gives_letters_to_options_with_numbers(tmp_path):
    task = load("arc_challenge", tmp_path)
    assert [r.answer for r in (*task.train, *task.validation, *task.test)] == ["C", "E", "B"]
    assert "\nB. text 2\n" in task.test[0].prompt
    put(tmp_path / "ARC-Challenge" / "ARC-Challenge-Test.jsonl", [arc_row("ABC", "D")])
    with pytest.raises(ValueError, match="answerKey 'D' is none of the options A, B, C"):
        load_text_task("arc_challenge", {"directory": tmp_path})


def test_boolq_is_answered_yes_or_no(tmp_path):
    record = load("bool_q", tmp_path).test[0]
    assert record.answer == "yes"
    assert record.prompt == "Water is wet.\nis water wet? Answer yes or no."


def test_samsums_empty_chat_is_left_out_and_counted(tmp_path):
    task = load("samsum", tmp_path)
    assert len(task.skipped) == 3
    assert "train.json, entry 2: field 'dialogue' is empty" in task.skipped[0]
    assert task.train[0].prompt == "Ann: Hi!\nBo: Hi.\nSummarise the conversation."
    with pytest.raises(ValueError, match="entry 2: field 'dialogue' is empty"):
        load_text_task("samsum", {"directory": tmp_path, "bad_rows": "raise"})


def test_webnlg_is_tested_on_seen_and_unseen_categories_without_texts_judged_bad(tmp_path):
    everything = load("web_nlg", tmp_path).test
    assert [r.references for r in everything] == [("One.", "Two."), ("Three.",)]
    assert everything[0].prompt == "Mars : moon : Phobos_1"
    seen, unseen = (load("web_nlg", tmp_path, test=test).test for test in ("seen", "unseen"))
    assert seen + unseen == everything
    assert len(seen) == 1


def test_darts_annotations_are_references(tmp_path):
    task = load("dart", tmp_path)
    assert task.test[0].references == ("Mars is red.", "Red Mars has Phobos.")
    assert task.test[0].prompt == "Mars : MOON : Phobos | Mars : COLOUR : red"


def test_wikisql_writes_queries_as_its_authors_print_them(tmp_path):
    record = load("wikisql", tmp_path).test[0]
    assert record.answer == "SELECT COUNT player FROM table WHERE team = Jazz AND year > 1996"
    assert record.prompt.startswith("Columns: player, team, year\nHow many")
    rows = [WIKISQL["test.jsonl"][0] | {"table_id": "9-9"}]
    with pytest.raises(ValueError, match=r"test.jsonl, line 1: there is no table '9-9'"):
        load("wikisql", tmp_path, WIKISQL | {"test.jsonl": rows})


def test_documents_are_answered_with_their_parse(tmp_path):
    record = load("cord", tmp_path).test[0]
    assert json.loads(record.answer) == record.fields["parse"]
    assert record.fields["parse"]["menu"] == [{"nm": "TEH", "price": "5.000"}]
    assert open_image(record.images[0]).size == (12, 9)


def test_llava_cot_keeps_every_turn_and_places_the_picture_itself(tmp_path):
    task = load("llava_cot", tmp_path)
    record = task.train[0]
    assert record.turns == (
        Turn("user", "Which colour?"),
        Turn("assistant", "Red."),
        Turn("user", "Look again."),
    )
    assert record.answer == STAGES
    assert record.fields["conclusion"] == "Blue."
    assert record.images == (tmp_path / "sqa/train/1/image.png",)
    assert [fault.split(": ")[1] for fault in task.skipped] == ["there is no picture"]


def test_toolace_ends_with_the_last_call(tmp_path):
    record = load("toolace", tmp_path).train[0]
    assert record.answer.startswith("[weather(city=")
    assert record.turns[0] == Turn("system", "You can call: [weather(city)]")


def test_flickr8k_has_a_record_for_each_caption_and_groups_them_to_test(tmp_path):
    task = load("flickr8k", tmp_path)
    assert [record.answer for record in task.train] == ["A dog runs .", "A dog, running ."]
    assert task.test[0].references == ("A dog runs .", "A dog, running .")
    (tmp_path / "Images" / "a.jpg").unlink()
    with pytest.raises(ValueError, match=r"trainImages.txt, line 1: there is no picture .*a.jpg"):
        load_text_task("flickr8k", {"directory": tmp_path})


def test_reports_are_written_out_with_their_sections_and_have_summaries(tmp_path):
    task = load("gov_report", tmp_path)
    prompts = [record.prompt for record in task.test]
    assert prompts == [
        "Intro.\nFlow\nThey flow.\nDown.\nSummarise the report.",
        "Background\nRoads are long.\nCost\nMuch.\nSummarise the report.",
    ]
    answers = [record.answer for record in task.test]
    assert answers == ["Rivers flow.\nThey end.", "What GAO Found\nRoads cost much."]


def test_hearings_without_transcript_are_left_out_and_counted(tmp_path):
    task = load("cocohd_hearings", tmp_path)
    assert len(task.skipped) == 1
    assert "row 31: there is no transcript CHRG-110hhrg30.txt" in task.skipped[0]
    details = json.loads(task.test[0].answer)
    assert details == task.test[0].fields["details"]
    assert details["members"] == ["Ann Lee", "Bo Day"]
    few = load("cocohd_hearings", tmp_path, fields=("title", "chamber"))
    assert list(json.loads(few.test[0].answer)) == ["title", "chamber"]


def test_a_corrupt_picture_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"row 7: the picture of 40 bytes is corrupt"):
        open_image(png()[:40], "row 7")
