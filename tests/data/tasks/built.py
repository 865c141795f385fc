"""Files in the published schemas of sets that are not here, with a few records made up."""

import csv
import io
import json
from pathlib import Path

import PIL.Image
import pyarrow as pa
import pyarrow.parquet


def png(shade=0):
    file = io.BytesIO()
    PIL.Image.new("RGB", (12, 9), (shade, 0, 0)).save(file, "PNG")
    return file.getvalue()


def put(path: Path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, str):
        path.write_text(content, encoding="utf-8")
    elif isinstance(content, bytes):
        path.write_bytes(content)
    elif path.suffix == ".parquet":
        pyarrow.parquet.write_table(pa.Table.from_pylist(content), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in content), encoding="utf-8")
    elif path.suffix == ".csv":
        file = io.StringIO()
        csv.writer(file).writerows(content)
        path.write_text(file.getvalue(), encoding="utf-8")
    else:
        path.write_text(json.dumps(content), encoding="utf-8")


def put_all(directory: Path, files):
    for name, content in files.items():
        put(directory / name, content)


def mcq(answer):
    return [["What is 1 + 1?", "2", "3, or so", "4", "5", answer]]


MMLU = {
    "auxiliary_train/arc.csv": mcq("A"),
    "dev/anatomy_dev.csv": mcq("A"),
    "val/anatomy_val.csv": mcq("B"),
    "test/anatomy_test.csv": mcq("A"),
    "test/world_history_test.csv": mcq("D"),
}
MMLU_HUB = {
    f"all/{split}-00000-of-00001.parquet": [
        {"question": "1 + 1?", "subject": "anatomy", "choices": list("2345"), "answer": 3}
    ]
    for split in ("auxiliary_train", "dev", "validation", "test")
}


def arc_row(labels, answer):
    choices = [{"text": f"text {label}", "label": label} for label in labels]
    return {"id": "q1", "question": {"stem": "Which?", "choices": choices}, "answerKey": answer}


ARC = {
    "ARC-Challenge/ARC-Challenge-Train.jsonl": [arc_row("ABCD", "C")],
    "ARC-Challenge/ARC-Challenge-Dev.jsonl": [arc_row("12345", "5")],
    "ARC-Challenge/ARC-Challenge-Test.jsonl": [arc_row("123", "2")],
}
ARC_HUB = {
    f"ARC-Challenge/{split}-00000-of-00001.parquet": [
        {
            "id": "q1",
            "question": "Which?",
            "choices": {"text": ["text 1", "text 2", "text 3"], "label": ["1", "2", "3"]},
            "answerKey": "2",
        }
    ]
    for split in ("train", "validation", "test")
}
BOOL_Q = {
    f"{name}.jsonl": [
        {"question": "is water wet", "title": "Water", "answer": True, "passage": "Water is wet."}
    ]
    for name in ("train", "dev")
}
SAMSUM = {
    f"{name}.json": [
        {"id": "1", "summary": "Ann greets Bo.", "dialogue": "Ann: Hi!\r\nBo: Hi."},
        {"id": "13828807", "summary": "problem with visualization", "dialogue": ""},
    ]
    for name in ("train", "val", "test")
}


def web_nlg_entry(number, category, *texts):
    triple = {"subject": "Mars", "property": "moon", "object": f"Phobos_{number}"}
    lexicalisations = [
        {"comment": comment, "lang": "", "lex": text, "xml_id": f"Id{i}"}
        for i, (comment, text) in enumerate(texts, 1)
    ]
    return {
        str(number): {
            "category": category,
            "lexicalisations": lexicalisations,
            "modifiedtripleset": [triple],
            "originaltriplesets": {"originaltripleset": [[triple]]},
            "size": "1",
            "xml_id": f"Id{number}",
        }
    }


WEB_NLG = {
    "train.json": {"entries": [web_nlg_entry(1, "Astronaut", ("good", "Mars has Phobos."))]},
    "dev.json": {"entries": [web_nlg_entry(1, "Astronaut", ("good", "A."), ("good", "B."))]},
    "test.json": {
        "entries": [
            web_nlg_entry(1, "Astronaut", ("good", "One."), ("toFix", "Bad."), ("good", "Two.")),
            web_nlg_entry(2, "Artist", ("good", "Three.")),
        ]
    },
}
DART = {
    f"dart-v1.1.1-full-{split}.json": [
        {
            "tripleset": [["Mars", "MOON", "Phobos"], ["Mars", "COLOUR", "red"]],
            "subtree_was_extended": False,
            "annotations": [
                {"source": "WikiTableQuestions_lily", "text": "Mars is red."},
                {"source": "WikiTableQuestions_lily", "text": "Red Mars has Phobos."},
            ],
        }
    ]
    for split in ("train", "dev", "test")
}
WIKISQL = {}
for _name in ("train", "dev", "test"):
    WIKISQL[f"{_name}.jsonl"] = [
        {
            "phase": 1,
            "table_id": "1-10",
            "question": "How many played for Jazz after 1996?",
            "sql": {"sel": 0, "conds": [[1, 0, "Jazz"], [2, 1, 1996]], "agg": 3},
        }
    ]
    WIKISQL[f"{_name}.tables.jsonl"] = [
        {"id": "1-10", "header": ["player", "team", "year"], "types": ["text"] * 3, "rows": []}
    ]

CORD = {
    f"data/{split}-00000-of-00001.parquet": [
        {
            "image": {"bytes": png(3), "path": "receipt.png"},
            "ground_truth": json.dumps(
                {
                    "gt_parse": {
                        "menu": [{"nm": "TEH", "price": "5.000"}],
                        "total": {"t": "5.000"},
                    },
                    "valid_line": [],
                    "meta": {"split": split},
                }
            ),
        }
    ]
    for split in ("train", "validation", "test")
}
STAGES = (
    "<SUMMARY>S</SUMMARY> <CAPTION>C</CAPTION> <REASONING>R</REASONING> "
    "<CONCLUSION>\nBlue.\n</CONCLUSION>"
)
LLAVA_COT = {
    "train.jsonl": [
        {
            "id": f"q{i}",
            "image": "sqa/train/1/image.png",
            "conversations": [
                {"from": "human", "value": "<image>\nWhich colour?"},
                {"from": "gpt", "value": "Red."},
                {"from": "human", "value": "Look again."},
                {"from": "gpt", "value": STAGES},
            ],
        }
        for i in range(120)
    ]
    + [{"id": "none", "conversations": [{"from": "human", "value": "No picture?"}]}],
    "sqa/train/1/image.png": png(5),
}
TOOLACE = {
    "data.json": [
        {
            "system": "You can call: [weather(city)]",
            "conversations": [
                {"from": "user", "value": f"Weather in town {i}?"},
                {"from": "assistant", "value": f'[weather(city="town {i}")]'},
                {"from": "tool", "value": '[{"name": "weather", "results": "sun"}]'},
            ],
        }
        for i in range(60)
    ]
}
FLICKR8K = {
    "captions.txt": 'image,caption\na.jpg,A dog runs .\na.jpg,"A dog, running ."\nb.jpg,A cat .\n',
    "Flickr_8k.trainImages.txt": "a.jpg\n",
    "Flickr_8k.devImages.txt": "b.jpg\n",
    "Flickr_8k.testImages.txt": "a.jpg\n",
    "Images/a.jpg": png(1),
    "Images/b.jpg": png(2),
}


def section(title, *paragraphs, inner=()):
    return {"section_title": title, "paragraphs": list(paragraphs), "subsections": list(inner)}


GOV_REPORT = {}
for _split in ("train", "valid", "test"):
    GOV_REPORT[f"split_ids/crs_{_split}.ids"] = "R1\n"
    GOV_REPORT[f"split_ids/gao_{_split}.ids"] = "GAO-1\n"
GOV_REPORT["crs/R1.json"] = {
    "id": "R1",
    "title": "On rivers",
    "released_date": "2019-01-01",
    "summary": ["Rivers flow.", "They end."],
    "reports": section("", "Intro.", inner=[section("Flow", "They flow.", "Down.")]),
}
GOV_REPORT["gao/GAO-1.json"] = {
    "id": "GAO-1",
    "url": "",
    "title": "On roads",
    "report": [section("Background", "Roads are long.", inner=[section("Cost", "Much.")])],
    "highlight": [section("What GAO Found", "Roads cost much.")],
    "fastfact": "",
    "published_date": "2019-01-01",
    "released_date": "2019-01-01",
}
GOV_REPORT_HUB = {
    f"document/{split}-00000-of-00001.parquet": [{"report": "Long.", "summary": "Short."}]
    for split in ("train", "validation", "test")
}
HEARINGS = {
    "details.parquet": [
        {
            "govinfo_id": f"CHRG-110hhrg{i}",
            "title": f"Hearing {i}",
            "congress_session": 110,
            "chamber": "House",
            "committee": "Committee on Energy",
            "committee_mapped": "Energy",
            "held_date": "2007-03-01",
            "members": ["Ann Lee", "Bo Day"],
            "bill_numbers": [],
            "witnesses": ["Cy Orr"],
        }
        for i in range(31)
    ],
    **{f"CHRG-110/CHRG-110hhrg{i}.txt": f"Transcript of hearing {i}." for i in range(30)},
}
MEDMCQA_HUB = {
    f"data/{split}-00000-of-00001.parquet": [
        {"id": f"{split}{i}", "question": "Which?", "opa": "a", "opb": "b", "opc": "c"}
        | {"opd": "d", "cop": i, "choice_type": "single", "exp": None}
        | {"subject_name": "Anatomy", "topic_name": None}
        for i in range(4)
    ]
    for split in ("train", "validation")
}

# task -> files, (training, validation, test) records
BUILT = {
    "arc_challenge": (ARC, (1, 1, 1)),
    "bool_q": (BOOL_Q, (1, 0, 1)),
    "cocohd_hearings": (HEARINGS, (24, 0, 6)),
    "cord": (CORD, (1, 1, 1)),
    "dart": (DART, (2, 1, 1)),
    "donut_invoices": (CORD, (1, 1, 1)),
    "flickr8k": (FLICKR8K, (2, 1, 1)),
    "gov_report": (GOV_REPORT, (2, 2, 2)),
    "llava_cot": (LLAVA_COT, (117, 0, 3)),
    "mmlu": (MMLU, (1, 1, 2)),
    "samsum": (SAMSUM, (1, 1, 1)),
    "toolace": (TOOLACE, (58, 0, 2)),
    "web_nlg": (WEB_NLG, (1, 1, 2)),
    "wikisql": (WIKISQL, (1, 1, 1)),
}
HUB = {
    "arc_challenge": (ARC_HUB, (1, 1, 1)),
    "gov_report": (GOV_REPORT_HUB, (1, 1, 1)),
    "medmcqa": (MEDMCQA_HUB, (4, 0, 4)),
    "mmlu": (MMLU_HUB, (1, 1, 1)),
}
