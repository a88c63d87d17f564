"""The table of long commands in ``docs/development.md``: complete, and each line says when its command last ran."""

from __future__ import annotations

import re

import docs_text
import pytest
from docs_text import DOCS, ROOT

pytestmark = pytest.mark.no_cover  # it reads documents only

PAGE = DOCS / "development.md"
_DATE = re.compile(r"20\d\d-\d\d-\d\d|\d{1,2} \w+ 20\d\d")
_MARKED = re.compile(r"<!-- long-commands -->\n(.*?)<!-- long-commands: end -->", re.DOTALL)


def rows() -> dict[str, list[str]]:
    """The cells of each line, by its command."""
    (table,) = _MARKED.findall(PAGE.read_text("utf-8"))
    lines = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table.strip().splitlines()]
    assert lines[0] == ["Command", "What it does", "Time", "Last run"]
    return {cells[0].strip("`"): cells[1:] for cells in lines[2:]}


def test_table_has_every_command_that_takes_minutes() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    in_ci = re.findall(r"^check ([a-z-]+)", (ROOT / ".ci" / "run").read_text("utf-8"), re.MULTILINE)
    benches = re.findall(r"^(bench[a-z-]*):", makefile, re.MULTILINE)
    assert len(in_ci) == 5
    assert len(benches) == 7
    others = ["reliability", "soak", "fuzz", "mutants"]
    assert set(rows()) == {".ci/run", *(f"make {target}" for target in (*in_ci, *benches, *others))}


def test_long_command_has_one_table_only() -> None:
    text = _MARKED.sub("", PAGE.read_text("utf-8"))
    assert [command for command in rows() if f"| `{command}` |" in text] == []


@pytest.mark.parametrize("command", rows())
def test_line_says_when_its_command_last_ran(command: str) -> None:
    """The line has a date, or a link to a section with one."""
    does, time, last_run = rows()[command]
    assert does
    assert time
    links = re.findall(r"\]\(([^)]+)\)", last_run)
    assert _DATE.search("\n".join([last_run, *map(section, links)]))


def section(link: str) -> str:
    """The text below the heading that a link points to, up to the next heading of its level or a higher one."""
    name, _, anchor = link.partition("#")
    page = PAGE.parent / name if name else PAGE
    parts = re.split(r"^(?=#{1,6} )", page.read_text("utf-8"), flags=re.MULTILINE)
    levels = [len(part) - len(part.lstrip("#")) for part in parts]
    slugs = [docs_text.slug_of(part.partition("\n")[0].lstrip("# ")) for part in parts]
    start = slugs.index(anchor)
    ends = [n for n in range(start + 1, len(parts)) if levels[n] <= levels[start]]
    return "".join(parts[start : ends[0] if ends else len(parts)])


def test_linked_sections_are_found() -> None:
    assert section("reliability.md#soak").startswith("## Soak\n")
    assert "<!-- measured: soak -->" in section("reliability.md#soak")
    assert docs_text.anchors(PAGE) >= {"long-commands"}
