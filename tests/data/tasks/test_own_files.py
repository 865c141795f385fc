"""One's own files: fields named in a config, and conversations in two forms."""

import json

import pytest

from lora_jax.data import Turn, load_text_task
from lora_jax.data.conversations import from_messages, from_sharegpt


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


ROWS = [{"instruction": f"Add {i}", "input": "", "output": f"{i + 1}"} for i in range(50)]


def test_fields_are_named_in_the_config(tmp_path):
    options = {"prompt": "{instruction}\n{input}", "answer": "{output}", "system": "Be exact."}
    train = write(tmp_path / "train.jsonl", ROWS)
    test = write(tmp_path / "test.jsonl", ROWS[:3])
    task = load_text_task("sft", {"train": train, "test": test, **options})
    assert (len(task.train), len(task.test)) == (50, 3)
    assert task.train[1].turns == (Turn("system", "Be exact."), Turn("user", "Add 1"))
    assert task.train[1].answer == "2"


def test_without_a_test_file_a_share_is_held_back(tmp_path):
    train = write(tmp_path / "train.jsonl", ROWS)
    options = {"train": train, "prompt": "{instruction}", "answer": "{output}"}
    task = load_text_task("sft", options)
    assert len(task.train) + len(task.test) == 50
    assert not {r.prompt for r in task.train} & {r.prompt for r in task.test}
    with pytest.raises(ValueError, match="50 records to train on and 0 to test on"):
        load_text_task("sft", {**options, "test_share": 0.0})


def test_any_form_of_file_and_patterns_will_do(tmp_path):
    (tmp_path / "a.csv").write_text("q,a\none,1\n")
    (tmp_path / "b.csv").write_text("q,a\ntwo,2\n")
    options = {"train": str(tmp_path / "*.csv"), "test": str(tmp_path / "a.csv")}
    task = load_text_task("sft", {**options, "prompt": "{q}", "answer": "{a}"})
    assert [record.answer for record in task.train] == ["1", "2"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": "{question}"}, r"line 1: no field 'question' for .* found: instruction, input"),
        ({"prompt": "{input}"}, r"line 1: '\{input\}' is empty"),
        ({"train": ""}, "task 'sft' needs the option `train`"),
        ({"train": "nowhere.jsonl"}, "no nowhere.jsonl"),
    ],
)
def test_bad_names_are_refused(tmp_path, options, message):
    train = write(tmp_path / "train.jsonl", ROWS)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_text_task("sft", {"train": train, "answer": "{output}", **options})


CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "Why"}, {"type": "text", "text": "?"}]},
    {"role": "assistant", "content": "Because."},
    {"role": "user", "content": "Really?"},
    {"role": "assistant", "content": "Yes."},
]
SHARED = [
    {"from": "system", "value": "Be brief."},
    {"from": "human", "value": "Why?"},
    {"from": "gpt", "value": "Because."},
    {"from": "human", "value": "Really?"},
    {"from": "gpt", "value": "Yes."},
]


def test_both_forms_of_conversations_are_one(tmp_path):
    task = load_text_task(
        "messages",
        {
            "train": write(tmp_path / "m.jsonl", [{"messages": CHAT}]),
            "test": write(tmp_path / "n.jsonl", [{"messages": CHAT}]),
        },
    )
    other = load_text_task(
        "sharegpt",
        {
            "train": write(tmp_path / "s.jsonl", [{"conversations": SHARED}]),
            "test": write(
                tmp_path / "t.jsonl", [{"conversations": SHARED[1:], "system": "Be brief."}]
            ),
        },
    )
    records = [side[0]._replace(place="") for t in (task, other) for side in (t.train, t.test)]
    assert len(set(map(str, records))) == 1
    assert [turn.role for turn in records[0].turns] == ["system", "user", "assistant", "user"]
    assert records[0].answer == "Yes."


def test_calls_of_tools_are_written_as_json():
    call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    record = from_messages(
        [{"role": "user", "content": "1?"}, {"role": "assistant", "tool_calls": [call]}]
    )
    assert json.loads(record.answer) == [{"name": "add", "arguments": {"a": 1}}]


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        (CHAT[:2], "ends with the user: there is no answer to learn"),
        (CHAT[2:3], "the user says nothing before the answer"),
        ([], "messages are '\\[\\]', not a list of objects"),
        ("text", "messages are 'text', not a list of objects"),
        ([{"role": "narrator", "content": "x"}], "role 'narrator' is none of system, user"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "of type image_url: only text"),
        ([{"role": "user", "content": None}], "content of the user is 'None', which is no text"),
        ([{"role": "user", "content": " "}, CHAT[2]], "the user says nothing in a turn"),
    ],
)
def test_other_forms_are_refused(messages, message):
    with pytest.raises(ValueError, match=message):
        from_messages(messages)


def test_unknown_speakers_are_refused():
    with pytest.raises(ValueError, match="expected 'from' and 'value' in"):
        from_sharegpt([{"from": "narrator", "value": "x"}])


def test_bad_conversations_can_be_left_out_and_are_counted(tmp_path):
    rows = [{"messages": CHAT}, {"messages": CHAT[:2]}, {}]
    path = write(tmp_path / "m.jsonl", rows)
    task = load_text_task("messages", {"train": path, "test": path, "bad_rows": "skip"})
    assert len(task.train) == 1
    assert [fault.split(": ")[0][-6:] for fault in task.skipped] == ["line 2", "line 3"] * 2
