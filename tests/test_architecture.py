"""The rules of the house, read from the source: who imports whom, and what nobody uses."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LIBRARY = sorted((ROOT / "lora_jax").rglob("*.py"))
SOURCES = [*LIBRARY, *sorted((ROOT / "experiments").glob("*.py")), *ROOT.glob("configs/*.py")]
TEXTS = [
    path
    for folder in ("lora_jax", "experiments", "configs", "scripts", "docs")
    for path in sorted((ROOT / folder).rglob("*"))
    if path.suffix in {".py", ".sh", ".md", ".css", ".js"}
] + [ROOT / "README.md", ROOT / "pyproject.toml", ROOT / "constraints.txt"]

# A room may import its own level and those before it.
LEVELS = (
    {"compat", "nearest"},
    {"lifting"},
    {"methods", "targets"},
    {"models", "adapters", "quantization", "api"},
    {"data", "hub"},
    {"training", "evaluation", "analysis", "reports", "serving"},
)
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}


def relative(path):
    return str(path.relative_to(ROOT))


def imported(path):
    """Dotted names of everything that a file imports, `from a import b` as a.b."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{relative(path)}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms(path):
    """Rooms of the library that a file imports."""
    names = [name.split(".") for name in imported(path)]
    return {parts[1] for parts in names if parts[0] == "lora_jax" and len(parts) > 1}


@pytest.mark.parametrize("path", LIBRARY, ids=relative)
def test_imports_run_downwards_only(path):
    room = path.relative_to(ROOT / "lora_jax").parts[0].removesuffix(".py")
    if room == "__init__":
        return
    above = {other for other in rooms(path) if LEVEL.get(other, 0) > LEVEL[room]}
    assert not above, f"{room} may not import {above}"
    assert "experiments" not in {name.split(".")[0] for name in imported(path)}


def test_models_and_lifting_do_not_know_each_other():
    for room, other in (("models", "lifting"), ("lifting", "models")):
        for path in (ROOT / "lora_jax" / room).rglob("*.py"):
            assert other not in rooms(path), relative(path)


def test_lifting_knows_no_framework():
    for path in (ROOT / "lora_jax" / "lifting").rglob("*.py"):
        packages = {name.split(".")[0] for name in imported(path)}
        assert not packages & {"flax", "equinox", "haiku", "optax"}, relative(path)


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_only_public_jax_is_used_and_never_torch(path):
    for name in imported(path):
        assert not re.match(
            r"jax\.(_src|interpreters|experimental|core\b)|jaxlib|torch|tensorflow(?!_datasets)",
            name,
        ), name
    assert not re.search(r"\bjax\.(_src|interpreters)\b", path.read_text(encoding="utf-8"))


def test_no_room_for_odds_and_ends():
    odd = {"utils", "util", "helpers", "misc", "common", "manager"}
    assert not [relative(path) for path in SOURCES if path.stem in odd or path.parent.name in odd]


@pytest.mark.parametrize("path", TEXTS, ids=relative)
def test_no_address_and_no_path_of_one_machine_is_written_down(path):
    found = re.findall(r"\w+://\S+|/(?:home|root|work|tmp|Users)/\S+", path.read_text("utf-8"))
    assert not found
