"""Real text that every Python carries: what a docstring of the standard library is about.

The modules are parsed, never imported. A docstring's label is the topic of the module that it
stands in. Modules may name their topic in words ("mailbox", "thread"); that is left as it is, for
it is how such texts are written.
"""

from __future__ import annotations

import ast
import hashlib
import sysconfig
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from lora_jax.data.near_duplicates import without_near_duplicates
from lora_jax.data.split import in_test
from lora_jax.data.task import Record, Task

# Modules come and go between Python versions; a topic takes those of its modules that are there.
TOPICS: Mapping[str, Sequence[str]] = {
    "archives": ("bz2", "gzip", "lzma", "tarfile", "zipapp", "zipfile", "_compression"),
    "concurrency": (
        *("asyncio", "concurrent", "contextvars", "multiprocessing", "queue", "sched"),
        *("selectors", "subprocess", "threading", "_threading_local"),
    ),
    "files": (
        *("filecmp", "fileinput", "fnmatch", "genericpath", "glob", "io", "_pyio", "ntpath"),
        *("os", "pathlib", "posixpath", "shutil", "stat", "tempfile"),
    ),
    "formats": (
        *("configparser", "copyreg", "csv", "json", "pickle", "pickletools", "plistlib"),
        *("shelve", "tomllib", "xdrlib", "xml"),
    ),
    "gui": ("idlelib", "tkinter", "turtle", "turtledemo"),
    "introspection": (
        *("abc", "ast", "dataclasses", "dis", "enum", "inspect", "opcode", "pyclbr", "pydoc"),
        *("symtable", "tokenize", "types", "typing"),
    ),
    "mail": (
        *("email", "imaplib", "mailbox", "mailcap", "mimetypes", "nntplib", "poplib"),
        *("quopri", "smtpd", "smtplib"),
    ),
    "numbers": (
        *("colorsys", "decimal", "_pydecimal", "fractions", "numbers", "_pylong", "random"),
        "statistics",
    ),
    "packaging": (
        *("distutils", "ensurepip", "imp", "importlib", "modulefinder", "pkgutil", "runpy"),
        *("site", "sysconfig", "venv", "zipimport"),
    ),
    "testing": (
        *("bdb", "cProfile", "doctest", "pdb", "profile", "pstats", "timeit", "trace"),
        *("traceback", "tracemalloc", "unittest"),
    ),
    "text": (
        *("codecs", "difflib", "encodings", "gettext", "locale", "pprint", "re", "reprlib"),
        *("shlex", "sre_parse", "string", "stringprep", "textwrap"),
    ),
    "web": (
        *("cgi", "cgitb", "ftplib", "html", "http", "ipaddress", "socket", "socketserver"),
        *("ssl", "telnetlib", "urllib", "webbrowser", "wsgiref", "xmlrpc"),
    ),
}

MIN_CHARACTERS = 30
NEAR_DUPLICATE = 0.5  # share of common pairs of words
TEST_SHARE = 0.25
TEST_FOLDERS = frozenset({"test", "tests", "idle_test"})  # they quote what they test

ABOUT = (
    f"Distinct docstrings of at least {MIN_CHARACTERS} characters from the standard library's "
    f"source; of any two whose sets of word pairs have a Jaccard similarity of {NEAR_DUPLICATE} "
    f"or more only one is kept; a hash of its text puts a docstring into the test set "
    f"({TEST_SHARE:.0%}) or the training set, so the modules are the same and the texts are not."
)

_Node = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


class Docstring(NamedTuple):
    """A docstring, and where it stands."""

    text: str
    topic: str
    file: str


def docstrings(
    *,
    train_per_topic: int = 100,
    test_per_topic: int = 40,
    topics: Mapping[str, Sequence[str]] = TOPICS,
    stdlib: str | Path | None = None,
) -> Task:
    """Makes the task of telling the topic of a docstring of the standard library.

    The split depends on the texts alone: a docstring is on the same side in every Python.

    Args:
      train_per_topic: training examples of each topic, so that none outweighs another; fewer
        where a topic has fewer.
      test_per_topic: test examples of each topic; fewer where it has fewer.
      topics: topic -> top-level modules.
      stdlib: the standard library's directory; that of the running Python by default.

    Returns:
      The task.

    Raises:
      ValueError: a number below 1, or a directory that holds texts on fewer than two topics.
    """
    if train_per_topic < 1 or test_per_topic < 1:
        raise ValueError(f"{train_per_topic=} and {test_per_topic=} must be at least 1")
    directory = Path(stdlib or sysconfig.get_path("stdlib"))
    found = sorted(_distinct(read_docstrings(directory, topics)), key=lambda d: _hash(d.text))
    classes = _present(found, topics, directory)
    sides: dict[bool, list[Record]] = {False: [], True: []}
    for label, topic in enumerate(classes):
        texts = [d.text for d in found if d.topic == topic]
        for is_test, most in ((False, train_per_topic), (True, test_per_topic)):
            side = [text for text in texts if _is_test(text) == is_test][:most]
            sides[is_test] += [Record(text, label) for text in side]
    return Task("docstrings", ABOUT, classes, tuple(sides[False]), tuple(sides[True]), "accuracy")


def read_docstrings(
    directory: str | Path, topics: Mapping[str, Sequence[str]] = TOPICS
) -> Iterator[Docstring]:
    """Reads the docstrings of the modules of each topic, tests left out.

    Args:
      directory: holds the modules' source.
      topics: topic -> top-level modules.

    Yields:
      Docstrings of at least `MIN_CHARACTERS`, white space collapsed, in order of their files.
    """
    topic_of = {module: topic for topic, modules in topics.items() for module in modules}
    for path in sorted(Path(directory).rglob("*.py")):
        parts = path.relative_to(directory).parts
        topic = topic_of.get(parts[0].removesuffix(".py"))
        if topic is None or TEST_FOLDERS.intersection(parts):
            continue
        for text in _texts(path):
            if len(text) >= MIN_CHARACTERS:
                yield Docstring(text, topic, "/".join(parts))


def _texts(path: Path) -> Iterator[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the source's own, such as invalid escapes
        tree = ast.parse(path.read_bytes(), str(path))
    for node in ast.walk(tree):
        if isinstance(node, _Node) and (text := ast.get_docstring(node)):
            yield " ".join(text.split())


def _distinct(found: Iterator[Docstring]) -> list[Docstring]:
    everything = list(found)
    kept = without_near_duplicates([d.text for d in everything], NEAR_DUPLICATE)
    return [everything[index] for index in kept]


def _present(
    found: Sequence[Docstring], topics: Mapping[str, Sequence[str]], directory: Path
) -> tuple[str, ...]:
    """The topics with texts on both sides. Some Pythons are packaged in parts, without tkinter."""
    sides = {(d.topic, _is_test(d.text)) for d in found}
    present = tuple(t for t in sorted(topics) if {(t, False), (t, True)} <= sides)
    if len(present) < 2:
        raise ValueError(
            f"{directory} has docstrings on {len(present)} of {len(topics)} topics: is it the "
            f"source of a standard library (sysconfig.get_path('stdlib'))?"
        )
    if absent := sorted(set(topics) - set(present)):
        warnings.warn(
            f"{directory} lacks the modules on {', '.join(absent)}: left out, so scores do not "
            f"compare with those of {len(topics)} topics",
            stacklevel=3,
        )
    return present


def _is_test(text: str) -> bool:
    return in_test(text, TEST_SHARE)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
