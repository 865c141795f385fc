"""GLUE: the real files, and files that are not as they should be."""

import pytest

from lora_jax.data import glue, load_task

HEADER = {
    "STS-B": "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2"
    "\tscore",
    "MRPC": "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String",
    "SST-2": "sentence\tlabel",
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
        (("fine\t1", "cut sho"), r"train.tsv, line 3: expected 2 fields .* found 1"),
        (("fine\t1", "bad\t7"), r"train.tsv, line 3: label '7' is none of 0, 1"),
        ((), r"train.tsv has no record"),
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
    write(tmp_path, "SST-2", "label\tsentence", header=False)
    with pytest.raises(
        ValueError, match=r"line 1: expected the columns .* found 'label\\tsentence'"
    ):
        glue("sst2", tmp_path)


def test_missing_files_and_directories_are_named(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"no directory .*nowhere"):
        glue("sst2", tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"there is no .*RTE.*train\.tsv"):
        glue("rte", tmp_path)
    monkeypatch.delenv("LORA_JAX_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match="LORA_JAX_DATA"):
        glue("rte")


def test_an_unknown_task_or_option_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match="'sst'; nearest: 'sst2'"):
        glue("sst")
    with pytest.raises(ValueError, match="unknown task 'docstring'; nearest: 'docstrings'"):
        load_task("docstring")
    with pytest.raises(ValueError, match="'train_per_topik'; nearest: 'train_per_topic'"):
        load_task("docstrings", {"train_per_topik": 3})
