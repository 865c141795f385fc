"""The docstring task, on this Python's own standard library and on small ones made here."""

import ast
import collections
import itertools
import re
import sys
import sysconfig
from pathlib import Path

import pytest

from lora_jax.data import docstrings
from lora_jax.data.tasks.docstrings import TOPICS, read_docstrings


@pytest.fixture(scope="module")
def task():
    return docstrings()


def words(text):
    """A second definition of what a text says: its words, in order."""
    return re.sub(r"[^a-z0-9]+", " ", text.lower()).split()


def test_a_dozen_topics_have_as_many_examples_each(task):
    assert task.classes == tuple(sorted(TOPICS))
    assert len(task.classes) == 12
    for records, count in ((task.train, 100), (task.test, 40)):
        assert collections.Counter(r.label for r in records) == dict.fromkeys(range(12), count)


def test_no_test_docstring_is_like_one_of_the_training_set(task):
    def pairs(text):
        found = words(text)
        return set(itertools.pairwise(found)) or {tuple(found)}

    train = [pairs(record.text) for record in task.train]
    for record in task.test:
        own = pairs(record.text)
        closest = max(len(own & other) / len(own | other) for other in train)
        assert closest < 0.55, record.text  # words are split a little otherwise than in the library


def test_no_text_occurs_twice(task):
    said = [" ".join(words(record.text)) for record in (*task.train, *task.test)]
    assert len(set(said)) == len(said)


def test_the_task_is_the_same_each_time(task):
    assert docstrings() == task


def test_more_examples_leave_the_sides_as_they_are(task):
    larger = docstrings(train_per_topic=120, test_per_topic=45)
    assert set(task.train) < set(larger.train)
    assert set(task.test) < set(larger.test)


def test_modules_are_parsed_and_never_imported():
    unlikely = {"turtledemo", "idlelib", "mailbox", "plistlib"} - set(sys.modules)
    assert unlikely
    docstrings()
    assert not unlikely & set(sys.modules)


def test_every_text_is_a_docstring_of_its_topics_modules(task):
    """Found again by another way: the documented statement, not ast.get_docstring."""
    stdlib = Path(sysconfig.get_path("stdlib"))
    constants = collections.defaultdict(set)
    for topic, modules in TOPICS.items():
        for module in modules:
            for path in [stdlib / f"{module}.py", *(stdlib / module).rglob("*.py")]:
                if path.exists():
                    for node in ast.walk(ast.parse(path.read_bytes())):
                        if isinstance(node, ast.Constant) and isinstance(node.value, str):
                            constants[topic].add("".join(node.value.split()))
    for record in task.test:
        assert "".join(record.text.split()) in constants[task.classes[record.label]]


def test_tests_and_short_docstrings_are_left_out(tmp_path):
    (tmp_path / "json" / "tests").mkdir(parents=True)
    long = "Encode an object as a line of text."
    (tmp_path / "json" / "__init__.py").write_text(f'"""{long}"""\ndef f():\n    """Short."""\n')
    (tmp_path / "json" / "tests" / "test_it.py").write_text('"""Test what is tested elsewhere."""')
    (tmp_path / "unlisted.py").write_text('"""This module belongs to no topic at all."""')
    assert [(d.text, d.topic, d.file) for d in read_docstrings(tmp_path)] == [
        (long, "formats", "json/__init__.py")
    ]


def write_module(directory, name, texts):
    functions = [f'def f{i}():\n    """{text}"""\n' for i, text in enumerate(texts)]
    (directory / f"{name}.py").write_text("\n".join(functions))


def test_a_topic_whose_modules_are_missing_is_left_out_with_a_warning(tmp_path):
    for module in ("queue", "smtplib"):
        texts = [" ".join(f"{module}{word}{i}" for word in "abcdef") for i in range(40)]
        write_module(tmp_path, module, texts)
    with pytest.warns(UserWarning, match=r"lacks the modules on archives, files, .*gui"):
        task = docstrings(stdlib=tmp_path)
    assert task.classes == ("concurrency", "mail")
    assert len(task.train) + len(task.test) == 80


def test_a_directory_without_source_is_refused(tmp_path):
    with pytest.raises(ValueError, match="docstrings on 0 of 12 topics"):
        docstrings(stdlib=tmp_path)


@pytest.mark.parametrize("options", [{"train_per_topic": 0}, {"test_per_topic": -1}])
def test_a_task_of_no_examples_is_refused(options):
    with pytest.raises(ValueError, match="must be at least 1"):
        docstrings(**options)
