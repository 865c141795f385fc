"""One HTML file that holds all about a run: it can be mailed, archived and opened offline."""

import os
from collections.abc import Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from lora_jax.training.workdir import write_text


class Section(NamedTuple):
    """A part of a page: a heading and pieces of HTML, as `lora_jax.reports.html` makes them."""

    heading: str
    pieces: Sequence[str]


def render_page(
    title: str, sections: Sequence[Section], *, lead: str = "", finding: str = ""
) -> str:
    """Write a page with its style and script inside.

    Args:
      title: Of the page, as plain text.
      sections: Its parts, in order.
      lead: What was done, in a sentence or two of plain text.
      finding: What came out, shown in a box, as plain text.

    Returns:
      A whole HTML document that refers to no other file.
    """
    lead_html = f"<p class=lead>{escape(lead)}</p>" if lead else ""
    finding_html = f"<p class=finding>{escape(finding)}</p>" if finding else ""
    body = "\n".join(_section_html(section) for section in sections)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>
{_resource("page.css")}</style>
</head>
<body>
<main>
<header>
<h1>{escape(title)}</h1>
{lead_html}
{finding_html}
</header>
{body}
</main>
<script>
{_resource("page.js")}</script>
</body>
</html>
"""


def write_page(path: str | os.PathLike[str], page: str) -> None:
    """Write a page in one step.

    Args:
      path: The file, usually WORKDIR/report.html.
      page: What `render_page` returned.

    Raises:
      OSError: If the file cannot be written. An older one is unharmed.
    """
    write_text(Path(path), page)


def _section_html(section: Section) -> str:
    pieces = "\n".join(section.pieces)
    return f"<section>\n<h2>{escape(section.heading)}</h2>\n{pieces}\n</section>"


def _resource(name: str) -> str:
    return resources.files("lora_jax.reports").joinpath(name).read_text(encoding="utf-8")
