"""What the documentation shows, runs; what it points to, exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_python_blocks_run_from_top_to_bottom(page, request):
    text = page.read_text(encoding="utf-8")
    if "minilm" in text:
        request.getfixturevalue("minilm_dir")
    namespace = {"__name__": "__main__"}
    for match in re.finditer(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        # Blank lines before the block, so that a failure names the line of the page.
        above = "\n" * text.count("\n", 0, match.start(1))
        exec(compile(above + match[1], str(page), "exec"), namespace)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_and_files_named_exist(page):
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!#)([^)]+)\)", text)
    assert not [link for link in links if not (page.parent / link.split("#")[0]).exists()]
    named = re.findall(r"(?:^|[\s`])((?:scripts|configs|docs)/[\w./]+\.\w+)", text)
    assert not [name for name in named if not (ROOT / name).exists()]


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_commands_name_modules_that_exist(page):
    text = page.read_text(encoding="utf-8")
    modules = re.findall(r"python -m (experiments\.\w+)", text)
    paths = [ROOT / (module.replace(".", "/") + ".py") for module in modules]
    assert not [path for path in paths if not path.exists()]
