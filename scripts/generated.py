"""Tables in Markdown, and the parts of documents that programs write."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path


def table(headings: Sequence[str], rows: Iterable[Sequence[object]], *, numbers: Collection[str] = ()) -> str:
    """A table in Markdown.

    :param numbers: the headings of columns that are aligned to the right
    """
    rule = ["---:" if heading in numbers else "---" for heading in headings]
    return "\n".join(map(line, [headings, rule, *rows]))


def line(cells: Iterable[object]) -> str:
    """A row of such a table."""
    return f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in cells)} |"


def parts(document: Path, kind: str) -> dict[str, str]:
    """The texts between ``<!-- KIND: NAME -->`` and ``<!-- end -->``, by name."""
    marked = re.compile(rf"^<!-- {kind}: (.+?) -->\n(.*?)^<!-- end -->$", re.DOTALL | re.MULTILINE)
    return dict(marked.findall(document.read_text(encoding="utf-8")))


def replace(document: Path, marker: str, text: str) -> None:
    """Write a text between ``<!-- MARKER -->`` and ``<!-- end -->``.

    :raises SystemExit: the document has no such markers
    """
    marked = re.compile(rf"^(<!-- {re.escape(marker)} -->\n).*?^(<!-- end -->)$", re.DOTALL | re.MULTILINE)
    new, found = marked.subn(lambda marks: f"{marks[1]}\n{text}\n\n{marks[2]}", document.read_text(encoding="utf-8"))
    if not found:
        raise SystemExit(f"{document} has no markers <!-- {marker} --> and <!-- end -->")
    document.write_text(new, encoding="utf-8")
