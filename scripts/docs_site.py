"""Build the documentation as a site: README, changelog and ``docs/`` through Sphinx, warnings are errors.

    python scripts/docs_site.py              writes site/, and checks every link in it

The documents are Markdown as a code host shows it. For the site they are copied into ``build/docs``: the README becomes
the first page, its table of documents the navigation, and each file that a document links to a page of its own. Pages
of a folder (``operators/``) stand below the document of its name (``operators.md``), in the order of its table.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import docs_html
from docs_text import DOCS, ROOT

SOURCE = ROOT / "build" / "docs"
SITE = ROOT / "site"
LANGUAGES = {".py": "python", ".csv": "text", ".toml": "toml", "": "text"}
IMAGES = (".png", ".svg")

_CODE_OR_LINK = re.compile(
    r"^(?P<indent> *)(?P<ticks>`{3,})\w*\n.*?^(?P=indent)(?P=ticks)\n"  # a block of code stays as it is
    r"|\[(?:[^][]|\[[^][]*\])*\]\((?P<link>[^()\s]+)\)"
    r"|`[^`\n]+`",
    re.DOTALL | re.MULTILINE,
)
_ROW = re.compile(
    r"^\| (?:\[(?P<title>[^]]+)\]\((?P<link>(?:docs/)?[\w-]+\.md)\)|\*\*(?P<caption>[^*|]+)\*\*) \|", re.MULTILINE
)


def main() -> int:
    """Build the site and check it; 0 if there is nothing to mend."""
    stage(SOURCE)
    shutil.rmtree(SITE, ignore_errors=True)
    sphinx = ["-m", "sphinx", "--quiet", "--fail-on-warning", "--fresh-env", "--conf-dir", str(DOCS)]
    done = subprocess.run(
        [sys.executable, *sphinx, "--doctree-dir", f"{SOURCE}.trees", str(SOURCE), str(SITE)], check=False
    )
    if done.returncode:
        return done.returncode
    problems = docs_html.problems(SITE)
    print(*problems, sep="\n", end="\n" if problems else "")
    if not problems:
        print(
            f"{SITE.relative_to(ROOT)}/index.html: {len(list(SITE.rglob('*.html')))} pages, every link leads somewhere"
        )
    return 1 if problems else 0


def stage(folder: Path) -> None:
    """Write what Sphinx reads."""
    shutil.rmtree(folder, ignore_errors=True)
    pages = page_names()
    linked: set[Path] = set()
    for document, name in pages.items():
        text = with_links_for_the_site(document, pages, linked)
        if name == "index.md":
            text += navigation(text)
        if document.with_suffix("").is_dir():
            text += toctree(pages_below(document))
        write(folder / name, text)
    for path in linked:
        write(folder / f"{file_page(path)}.md", file_text(path))
    for path in sorted(DOCS.rglob("*")):
        if path.suffix in IMAGES:
            target = folder / path.relative_to(DOCS)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def page_names() -> dict[Path, str]:
    """The documents, and what they are called on the site."""
    names = {path: path.relative_to(DOCS).as_posix() for path in sorted(DOCS.rglob("*.md"))}
    own = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "SECURITY.md": "reporting.md"}
    return {**{ROOT / name: page for name, page in own.items()}, **names}


def with_links_for_the_site(document: Path, pages: Mapping[Path, str], linked: set[Path]) -> str:
    """The text of a document with links as they are on the site.

    :param linked: takes the files, other than documents, that it links to
    """
    here = Path(pages.get(document, document.name)).parent

    def replaced(match: re.Match[str]) -> str:
        link = match["link"]
        path, hash_, anchor = (link or "").partition("#")
        if not path or re.match(r"[a-z]+:", path) or Path(path).suffix in IMAGES:
            return match[0]
        target = (document.parent / path).resolve()
        if target in pages:
            name = pages[target]
        elif target.is_file():
            linked.add(target)
            name = f"{file_page(target)}.md"
        else:
            return match[0]  # Sphinx complains about it
        name = Path(os.path.relpath(name, here)).as_posix()
        return f"{match[0].removesuffix(f'({link})')}({name}{hash_}{anchor})"

    return _CODE_OR_LINK.sub(replaced, document.read_text(encoding="utf-8"))


def file_page(path: Path) -> str:
    """The page for a file: ``crm_load.py`` in ``example_dags`` is at ``example_dags-crm_load``."""
    return "-".join(path.relative_to(ROOT).with_suffix("").parts)


def file_text(path: Path) -> str:
    """A file as a page."""
    title, language = path.relative_to(ROOT).as_posix(), LANGUAGES[path.suffix]
    return f"---\norphan: true\n---\n\n# `{title}`\n\n`````{language}\n{path.read_text(encoding='utf-8')}`````\n"


@dataclass(frozen=True)
class Group:
    """Documents under one caption of the navigation."""

    caption: str
    pages: list[tuple[str, str]]


def groups(readme: str) -> list[Group]:
    """The table of documents in the README: a row in bold begins a group."""
    found: list[Group] = []
    for row in _ROW.finditer(readme):
        if row["caption"]:
            found.append(Group(row["caption"], []))
        else:
            found = found or [Group("Documentation", [])]
            found[-1].pages.append((row["title"].replace("`", ""), Path(row["link"]).stem))
    return found


def navigation(index: str) -> str:
    """The README's table of documents as Sphinx wants it."""
    shown = [*groups(index), Group("Project", [("Changes", "changelog"), ("Vulnerabilities", "reporting")])]
    return "".join(toctree(group.pages, f":caption: {group.caption}\n") for group in shown)


def pages_below(document: Path) -> list[tuple[str, str]]:
    """The pages of a document's folder, in the order of its table: title, and where it is from the document."""
    row = re.compile(rf"^\| \[`(\w+)`\]\(({re.escape(document.stem)}/[\w-]+)\.md\) \|", re.MULTILINE)
    return row.findall(document.read_text(encoding="utf-8"))


def toctree(pages: Iterable[tuple[str, str]], options: str = "") -> str:
    """Pages, by title and name, in the navigation of Sphinx."""
    entries = "\n".join(f"{title} <{name}>" for title, name in pages)
    return f"\n```{{toctree}}\n:hidden:\n{options}\n{entries}\n```\n"


if __name__ == "__main__":
    sys.exit(main())
