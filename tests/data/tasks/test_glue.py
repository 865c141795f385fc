"""GLUE: the real files, and files that are not as they should be."""

import pyarrow as pa
import pyarrow.parquet
import pytest

from lora_jax.data import glue, load_task
from lora_jax.hub.llama2c_tokenizer import Llama2cTokenizer

HEADER = {
    "STS-B": "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2"
    "\tscore",
    "MRPC": "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String",
    "SST-2": "sentence\tlabel",
    "QQP": "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate",
    "QNLI": "index\tquestion\tsentence\tlabel",
}


def write(directory, folder, *lines, header=True, encoding="utf-8"):
    (directory / folder).mkdir(exist_ok=True)
    text = "\n".join([HEADER[folder], *lines] if header else lines) + "\n"
    for part in ("train", "dev"):
        (directory / folder / f"{part}.tsv").write_text(text, encoding=encoding)
    return directory


# As GLUE's authors count them.
COUNTS = {
    "cola": (8551, 1043),
    "mrpc": (3668, 408),
    "rte": (2490, 277),
    "sst2": (67349, 872),
    "stsb": (5749, 1500),
}


@pytest.mark.needs_data
@pytest.mark.parametrize("name", COUNTS)
def test_real_files_are_read_whole(name, data_dir):
    task = glue(name, data_dir / "glue")
    assert (len(task.train), len(task.test)) == COUNTS[name]
    for record in task.train + task.test:
        assert record.text.strip()
        assert (record.pair is None) == (name in ("cola", "sst2"))


@pytest.mark.needs_data
@pytest.mark.parametrize("name", [*COUNTS, "cocohd_relevancy", "cocohd_inc_dec"])
def test_texts_survive_the_way_to_tokens_and_back(name, data_dir):
    folder = "cocohd" if name.startswith("cocohd") else "glue"
    task = load_task(name, {"directory": data_dir / folder})
    tokenizer = Llama2cTokenizer(data_dir / "stories260k" / "tok512.bin")
    records = (*task.train[::20], *task.validation, *task.test)
    texts = [text for record in records for text in (record.text, record.pair) if text]
    ids = tokenizer.encode_ragged(texts, special=False)
    assert [tokenizer.decode(row) for row in ids] == texts


@pytest.mark.needs_data
def test_known_records_of_the_real_files(data_dir):
    stsb = glue("stsb", data_dir / "glue")
    assert stsb.test[1] == ("A young child is riding a horse.", 4.75, "A child is riding a horse.")
    assert (stsb.outputs, stsb.metric) == (1, "spearman")
    mrpc = glue("mrpc", data_dir / "glue")  # its file has quotation marks that do not match
    assert mrpc.test[0].pair.startswith('" The foodservice pie business')
    rte = glue("rte", data_dir / "glue")
    assert rte.classes[int(rte.test[0].label)] == "not_entailment"
    cola = glue("cola", data_dir / "glue")  # no header: the first line counts
    assert cola.test[0] == ("The sailors rode the breeze clear of the rocks.", 1, None)


def test_quotation_marks_and_line_separators_are_text(tmp_path):
    write(tmp_path, "SST-2", '"never closed \u2028 one line\t1', "plain\t0")
    assert [tuple(r) for r in glue("sst2", tmp_path).train] == [
        ('"never closed \u2028 one line', 1, None),
        ("plain", 0, None),
    ]


def test_a_byte_order_mark_is_no_part_of_the_header(tmp_path):
    write(tmp_path, "MRPC", "1\t7\t8\tone\tother", encoding="utf-8-sig")
    assert glue("mrpc", tmp_path).train[0] == ("one", 1, "other")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (("fine\t1", "cut sho"), r"train.tsv, line 3: expected 2 fields, found 1"),
        (("fine\t1", "bad\t7"), r"train.tsv, line 3: label '7' is none of 0, 1"),
        (("fine\t1", " \t1"), r"train.tsv, line 3: field 'sentence' is empty"),
        ((), r"glue has no record to read for 'train'"),
    ],
)
def test_a_malformed_line_is_named(lines, message, tmp_path):
    write(tmp_path, "SST-2", *lines)
    with pytest.raises(ValueError, match=message):
        glue("sst2", tmp_path)


@pytest.mark.parametrize(
    ("score", "message"), [("high", "'high' is not a number"), ("5.1", "not between 0 and 5")]
)
def test_a_wrong_score_is_named(score, message, tmp_path):
    write(tmp_path, "STS-B", f"0\tg\tf\t2012\t1\tn\tn\tone\tother\t{score}")
    with pytest.raises(ValueError, match=f"line 2: score .*{message}"):
        glue("stsb", tmp_path)


def test_another_header_is_refused(tmp_path):
    write(tmp_path, "SST-2", "text\tlabel", "fine\t1", header=False)
    with pytest.raises(ValueError, match=r"line 2: no field 'sentence'; found: text, label"):
        glue("sst2", tmp_path)


def test_missing_files_and_directories_are_named(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"no SST-2/train.tsv .*nowhere \(no directory\)"):
        glue("sst2", tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"no RTE/train.tsv .* gluebenchmark.com"):
        glue("rte", tmp_path)


def test_mnli_is_read_from_files_with_different_columns_and_has_two_test_sets(tmp_path):
    (tmp_path / "MNLI").mkdir()
    few = "index\tgenre\tsentence1\tsentence2\tlabel1\tgold_label"
    many = few.replace("label1", "label1\tlabel2")
    for name, lines in {
        "train": (few, "0\tfiction\tIt rains.\tIt is wet.\tneutral\tentailment"),
        "dev_matched": (many, "0\tfiction\tNo.\tYes.\tneutral\tneutral\tcontradiction"),
        "dev_mismatched": (many, "0\tnineeleven\tHm.\tHa.\tneutral\tneutral\tneutral"),
    }.items():
        (tmp_path / "MNLI" / f"{name}.tsv").write_text("\n".join(lines))
    matched, mismatched = glue("mnli", tmp_path), glue("mnli_mismatched", tmp_path)
    assert matched.train == mismatched.train == (("It rains.", 0, "It is wet."),)
    assert matched.test == (("No.", 2, "Yes."),)
    assert mismatched.test == (("Hm.", 1, "Ha."),)
    assert matched.classes == ("entailment", "neutral", "contradiction")


def test_qnli_asks_whether_a_sentence_answers_a_question(tmp_path):
    write(tmp_path, "QNLI", "0\tWho?\tI did.\tentailment", "1\tWhen?\tHere.\tnot_entailment")
    assert glue("qnli", tmp_path).test == (("Who?", 0, "I did."), ("When?", 1, "Here."))


def test_lines_cut_short_are_left_out_of_qqp_alone_and_counted(tmp_path):
    write(tmp_path, "QQP", "1\t2\t3\tWhy?\tHow?\t0", "2\t4\t5\tWho?")
    task = glue("qqp", tmp_path)
    assert task.train == (("Why?", 0, "How?"),)
    assert task.about.endswith(" 2 malformed lines are left out.")  # one in each file
    with pytest.raises(ValueError, match="line 3: expected 6 fields, found 4"):
        glue("qqp", tmp_path, bad_rows="raise")


def test_the_hubs_copies_name_columns_and_number_classes(tmp_path):
    rows = {
        "mnli": {"premise": "It rains.", "hypothesis": "It is wet.", "label": 2, "idx": 0},
        "stsb": {"sentence1": "A", "sentence2": "B", "label": 2.5, "idx": 0},
        "cola": {"sentence": "It be.", "label": 0, "idx": 0},
    }
    for name, row in rows.items():
        (tmp_path / name).mkdir()
        table = pa.Table.from_pylist([row])
        for split in ("train", "validation" + "_matched" * (name == "mnli")):
            pyarrow.parquet.write_table(table, tmp_path / name / f"{split}-0-of-1.parquet")
    assert glue("mnli", tmp_path).test == (("It rains.", 2, "It is wet."),)
    assert glue("stsb", tmp_path).test == (("A", 2.5, "B"),)
    assert glue("cola", tmp_path).test == (("It be.", 0, None),)


def test_labels_that_were_held_back_are_refused(tmp_path):
    (tmp_path / "cola").mkdir()
    table = pa.Table.from_pylist([{"sentence": "It be.", "label": -1}])
    pyarrow.parquet.write_table(table, tmp_path / "cola" / "train-0.parquet")
    with pytest.raises(ValueError, match=r"row 1: label -1 is none of 0, 1"):
        glue("cola", tmp_path)


def test_an_unknown_task_or_option_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match="'sst'; nearest: 'sst2'"):
        glue("sst")
    with pytest.raises(ValueError, match="unknown task 'docstring'; nearest: 'docstrings'"):
        load_task("docstring")
    with pytest.raises(ValueError, match="'train_per_topik'; nearest: 'train_per_topic'"):
        load_task("docstrings", {"train_per_topik": 3})
