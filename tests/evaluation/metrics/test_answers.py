"""Metrics of right and wrong answers, on the forms that models and data sets write."""

import json

import pytest

from lora_jax.evaluation import METRICS


def score(name, prediction, *references):
    return METRICS[name]([prediction], [references])


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("She has 3 * 420 left.\n#### 1,260", 1),
        ("#### 1260.", 0),  # compared letter by letter, as the official script does
        ("#### 1261", 0),
        ("####1260", 0),
        ("The answer is 1260", 0),
        ("#### 1260\n#### 7", 1),
    ],
)
def test_the_first_marked_number_is_the_final_answer(text, right):
    assert score("final_answer", text, "420 * 3 = <<420*3=1260>>1260\n#### 1260") == right


def test_negative_answers_keep_their_sign():
    assert score("final_answer", "#### -5", "#### -5") == 1
    assert score("final_answer", "#### 5", "#### -5") == 0


@pytest.mark.needs_data
def test_every_solution_of_gsm8k_has_a_final_answer(data_dir):
    lines = (data_dir / "gsm8k" / "test.jsonl").read_text(encoding="utf-8").splitlines()
    answers = [json.loads(line)["answer"] for line in lines]
    assert len(answers) == 1319
    assert METRICS["final_answer"](answers, [[answer] for answer in answers]) == 1
    assert METRICS["final_answer"](answers[1:], [[answer] for answer in answers[:-1]]) < 0.05


@pytest.mark.parametrize(
    "text",
    [
        "C",
        " C\n",
        "(C)",
        "C. aspirin",
        "C) aspirin",
        "(C) aspirin: not A or B",
        "A pain killer is meant, so the answer is (C).",
        "Reasoning about A and B first.\nAnswer: C",
        "The answer is: **C** since D is a vitamin",
        "Not A. Not B, but C",
        "I think C fits; A patient needs it",
        "B is tempting. The correct answer is C",
    ],
)
def test_the_letter_chosen_is_found_in_what_models_write(text):
    assert [score("choice", text, letter) for letter in "ABCDE"] == [0, 0, 1, 0, 0]


@pytest.mark.parametrize("text", ["", "aspirin", "I do not know", "A patient needs rest", "ABC"])
def test_a_text_that_chooses_no_letter_is_wrong(text):
    assert [score("choice", text, letter) for letter in "ABCDE"] == [0, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("name", "reference", "message"),
    [
        ("final_answer", "42", "no final answer '#### NUMBER': '42'"),
        ("choice", "aspirin", "names no option from A to E: 'aspirin'"),
        ("logical_form", "all players", "not a query of WikiSQL: 'all players'"),
        ("entity_f1", "[1]", r"not a JSON object: '\[1\]'"),
        ("key_value_overlap", "total: 9", "not JSON .* 'total: 9'"),
    ],
)
def test_a_reference_without_an_answer_is_refused(name, reference, message):
    with pytest.raises(ValueError, match=message):
        score(name, "A", reference)


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ('[Market Trends API(trend_type="INDEX", top=3), f(x=[1, {"a": true}])]', 1),
        ("[f(x=[1, {\"a\": true}]), Market Trends API(top=3.0, trend_type='INDEX')]", 1),
        ("[f(x=(1, {'a': True})), Market Trends API(top=3, trend_type='INDEX')]", 1),
        (
            '[{"name": "f", "arguments": {"x": [1, {"a": true}]}}, {"name": "Market Trends API",'
            ' "arguments": {"top": 3, "trend_type": "INDEX"}}]',
            1,
        ),
        ('[Market Trends API(trend_type="INDEX", top=3)]', 0),  # a call is missing
        ('[Market Trends API(trend_type="INDEX"), f(x=[1, {"a": true}])]', 0),  # an argument
        ('[Market Trends API(trend_type="INDEX", top="3"), f(x=[1, {"a": true}])]', 0),
        ('[Market Trends API(trend_type="index", top=3), f(x=[1, {"a": true}])]', 0),
        ('[Market Trends API(trend_type="INDEX", top=3), f(x=[1, {"a": 1}])]', 0),
        ('[Market Trends(trend_type="INDEX", top=3), f(x=[1, {"a": true}])]', 0),
        ('[Market Trends API(trend_type="INDEX", top=3), f(x=[1, {"a": true}])', 0),
        ('Sure: [Market Trends API(trend_type="INDEX", top=3), f(x=[1, {"a": true}])]', 0),
    ],
)
def test_calls_are_right_only_with_every_function_argument_and_value(text, right):
    reference = '[Market Trends API(trend_type="INDEX", top=3), f(x=[1, {"a": true}])]'
    assert score("tool_calls", text, reference) == right


def test_brackets_and_commas_inside_quotes_belong_to_the_value():
    call = r'[say(text="a, (b) \"c\" ]", from="it\'s")]'
    assert score("tool_calls", call.replace(r"\'", "'"), call.replace(r"\'", "'")) == 1
    assert score("tool_calls", '[say(text="a, (b) c ]")]', '[say(text="a, (b) d ]")]') == 0


def test_the_same_call_twice_is_not_once():
    assert score("tool_calls", "[f(x=1), f(x=1)]", "[f(x=1)]") == 0


def test_prose_is_right_where_no_call_is_wanted():
    assert score("tool_calls", "None of the tools can do that.", "No tool fits.") == 1
    assert score("tool_calls", "[f(x=1)]", "No tool fits.") == 0


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("SELECT COUNT player FROM table WHERE team = Utah Jazz AND year > 1996", 1),
        ("select count player from table where year > 1996 and team = utah jazz;", 1),
        ("SELECT player FROM table WHERE team = Utah Jazz AND year > 1996", 0),
        ("SELECT COUNT player FROM table WHERE team = Utah Jazz", 0),
        ("SELECT COUNT player FROM table WHERE team = Utah Jazz AND year < 1996", 0),
        ("SELECT COUNT player FROM table", 0),
        ("the number of players", 0),
    ],
)
def test_queries_are_equal_clause_by_clause(text, right):
    reference = "SELECT COUNT player FROM table WHERE team = Utah Jazz AND year > 1996"
    assert score("logical_form", text, reference) == right


def test_queries_in_json_are_compared_by_column_aggregation_and_conditions():
    query = {"sel": 3, "agg": 0, "conds": [[5, 0, "Butler CC (KS)"], [1, 1, 7]]}
    same = {"agg": 0, "sel": 3, "conds": [[1, 1, "7"], [5, 0, "butler cc (ks)"]]}
    right = json.dumps(query)
    assert score("logical_form", json.dumps(same), right) == 1
    assert score("logical_form", json.dumps(query | {"agg": 3}), right) == 0
    assert score("logical_form", '{"sel": 3, "agg": 0}', right) == 0


RECEIPT = {"company": "BOOK TA .K", "date": "25/12/2018", "address": "NO.53", "total": "9.00"}


def test_entities_are_counted_over_all_receipts():
    predictions = [
        json.dumps(RECEIPT | {"total": " 9.00 ", "address": ""}),  # 3 right of 3, of 4 true
        json.dumps(RECEIPT | {"total": "9.0"}),  # 3 right of 4
        "The total is 9.00",  # none of none
    ]
    references = [[json.dumps(RECEIPT)]] * 3
    assert METRICS["entity_precision"](predictions, references) == pytest.approx(6 / 7)
    assert METRICS["entity_recall"](predictions, references) == pytest.approx(6 / 12)
    assert METRICS["entity_f1"](predictions, references) == pytest.approx(12 / 19)


def test_an_entity_under_another_name_is_wrong_and_a_fence_is_no_harm():
    right = '{"date": "25/12/2018"}'
    assert score("entity_f1", '{"total": "25/12/2018"}', right) == 0
    assert score("entity_f1", f"```json\n{right}\n```", right) == 1


@pytest.mark.needs_data
def test_every_receipt_of_sroie_is_its_own_perfect_prediction(data_dir):
    keys = sorted((data_dir / "sroie" / "key").glob("*.json"))
    texts = [path.read_text(encoding="utf-8") for path in keys]
    assert len(texts) >= 100
    assert METRICS["entity_f1"](texts, [[text] for text in texts]) == 1
    assert METRICS["entity_f1"](texts[1:], [[text] for text in texts[:-1]]) < 0.3


def test_pairs_of_nested_objects_and_of_lists_overlap_whatever_their_order():
    right = json.dumps({"title": "Clean  Energy", "held": {"year": 2021}, "members": ["A", "B"]})
    found = json.dumps({"members": ["B", "C"], "held": {"year": 2021}, "title": "clean energy"})
    assert score("key_value_overlap", found, right) == pytest.approx(2 * 3 / (4 + 4))
    assert score("key_value_overlap", "not JSON", right) == 0
    # A number is not the text that spells it, and a key elsewhere is another key.
    assert score("key_value_overlap", '{"held": {"year": "2021"}, "year": 2021}', right) == 0


@pytest.mark.parametrize(
    ("text", "reference", "value"),
    [
        ("Paris\n", "Paris", 1),
        ("paris", "Paris", 0),
        ("Paris.", "Paris", 0),
        ("", "Paris", 0),
    ],
)
def test_an_exact_match_is_every_letter(text, reference, value):
    assert score("exact_match", text, reference) == value


def test_anls_counts_the_nearest_reference_and_nothing_from_half_the_letters_off():
    assert score("anls", "Jahor Bahru", "x", "JOHOR  BAHRU") == pytest.approx(10 / 11)
    assert score("anls", "abcd", "abxy") == 0
    assert score("anls", "abcde", "abcxy") == pytest.approx(0.6)
