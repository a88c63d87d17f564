"""A minimal Markdown reader for this repository's documents: fences, headings and links."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"

_FENCE = re.compile(r"^( *)(`{3,})(\w*)\n(.*?)^\1\2\n", re.DOTALL | re.MULTILINE)
_HEADING = re.compile(r"^#{1,6} +(.+?) *#*$", re.MULTILINE)
_LINK = re.compile(r"\[(?:[^][]|\[[^][]*\])*\]\(([^()\s]+)\)")


@dataclass(frozen=True)
class Fence:
    """A block of code in a document.

    :param line: the line of its opening fence, from 1
    """

    document: Path
    line: int
    language: str
    code: str

    @property
    def name(self) -> str:
        return f"{self.document.relative_to(ROOT)}:{self.line}"


def documents() -> list[Path]:
    """README, changelog and everything in ``docs``."""
    return [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md"))]


def fences(document: Path, language: str | None = None) -> list[Fence]:
    """The code blocks of a document, of all languages or one, without the indentation of list items."""
    text = document.read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(text):
        indent, _, kind, code = match.groups()
        lines = [line.removeprefix(indent) for line in code.splitlines()]
        if language in (None, kind):
            found.append(Fence(document, text.count("\n", 0, match.start()) + 1, kind, "\n".join(lines) + "\n"))
    return found


def prose(document: Path) -> str:
    """The text of a document without its code blocks."""
    return _FENCE.sub("\n", document.read_text(encoding="utf-8"))


def links(document: Path) -> list[str]:
    """The targets of all links in the text, in order, except in code."""
    return _LINK.findall(re.sub(r"`[^`\n]+`", "code", prose(document)))


def anchors(document: Path) -> set[str]:
    """The anchors of all headings."""
    return set(_slugs(_HEADING.findall(prose(document))))


def _slugs(headings: list[str]) -> Iterator[str]:
    seen: dict[str, int] = {}
    for heading in headings:
        slug = slug_of(heading)
        repeated = seen.get(slug, 0)
        seen[slug] = repeated + 1
        yield f"{slug}-{repeated}" if repeated else slug


def slug_of(heading: str) -> str:
    """The anchor of a heading, if no heading before it has the same text."""
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
