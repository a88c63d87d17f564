"""Checking a built site: every link and anchor leads somewhere, and nothing is loaded from elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

_LOADED = {"img": "src", "script": "src", "link": "href", "iframe": "src", "source": "src"}
_ELSEWHERE = re.compile(r"(?:[a-z]+:)?//")
_IN_STYLES = re.compile(r"(?:url\(|@import)\s*['\"]?((?:https?:)?//[^'\")]+)")


@dataclass
class Page(HTMLParser):
    """What a page links to, what it loads, and where in it a link can lead."""

    links: list[str] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if found.get("id"):
            self.ids.add(str(found["id"]))
        if tag == "a" and found.get("href"):
            self.links.append(str(found["href"]))
        source = found.get(_LOADED.get(tag, ""))
        if source:
            self.loads.append(source)


def problems(site: Path) -> list[str]:
    """What is wrong with a site, one line each."""
    pages = sorted(site.rglob("*.html"))
    return [
        *(problem for page in pages for problem in _problems_of(page, site)),
        *(
            f"{path.relative_to(site)}: loads {address} from elsewhere"
            for path in sorted(site.rglob("*.css"))
            for address in _IN_STYLES.findall(path.read_text(encoding="utf-8"))
        ),
    ]


def _problems_of(path: Path, site: Path) -> Iterator[str]:
    page, name = read(path), path.relative_to(site)
    for address in page.loads:
        if _ELSEWHERE.match(address):
            yield f"{name}: loads {address} from elsewhere"
    for link in [*page.links, *page.loads]:
        file, _, anchor = unquote(link).partition("#")
        if re.match(r"(?:[a-z]+:|//)", file):
            continue
        target = (path.parent / file.partition("?")[0]).resolve() if file else path
        if not target.exists():
            yield f"{name}: the link {link} leads nowhere"
        elif anchor and target.suffix == ".html" and anchor not in read(target).ids:
            yield f"{name}: {link}: the page is there, the anchor is not"


@cache
def read(path: Path) -> Page:
    """A page, read once."""
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    return page
