"""How the documents become a site, and how the site is checked. The site itself: ``make docs``."""

from __future__ import annotations

from pathlib import Path

import docs_html
import docs_site
import pytest
from docs_text import DOCS, ROOT

PAGES = {
    ROOT / "README.md": "index.md",
    DOCS / "load.md": "load.md",
    DOCS / "errors.md": "errors.md",
    ROOT / "CHANGELOG.md": "changelog.md",
    DOCS / "operators" / "upsert-contact.md": "operators/upsert-contact.md",
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[upsert](operators/upsert-contact.md#calls)", "[upsert](operators/upsert-contact.md#calls)"),
        ("[Loads](load.md#rejects)", "[Loads](load.md#rejects)"),
        ("[start](../README.md)", "[start](index.md)"),
        ("[changes](../CHANGELOG.md) and [errors](errors.md)", "[changes](changelog.md) and [errors](errors.md)"),
        ("[`x[0]`](../README.md)", "[`x[0]`](index.md)"),
        ("[`a.py`](../example_dags/crm_load.py)", "[`a.py`](example_dags-crm_load.md)"),
        ("![form](images/form.png) [web](https://example.com/README.md)",) * 2,
        ("[here](#below) `[code](../README.md)`",) * 2,
        ("```python\n[x](../README.md)\n```\n[y](../README.md)", "```python\n[x](../README.md)\n```\n[y](index.md)"),
        ("[nowhere](nowhere.md)",) * 2,
    ],
)  # fmt: skip
def test_links_lead_to_the_pages_of_the_site(text: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda self, encoding: text)
    linked: set[Path] = set()
    assert docs_site.with_links_for_the_site(DOCS / "page.md", PAGES, linked) == expected
    assert linked == ({ROOT / "example_dags" / "crm_load.py"} if "example_dags" in text else set())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[Loads](../load.md#rejects)", "[Loads](../load.md#rejects)"),
        ("[start](../../README.md)", "[start](../index.md)"),
        ("[`a.py`](../../example_dags/crm_load.py)", "[`a.py`](../example_dags-crm_load.md)"),
        ("[this](upsert-contact.md)", "[this](upsert-contact.md)"),
    ],
)
def test_links_of_a_page_in_a_folder(text: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda self, encoding: text)
    page = DOCS / "operators" / "upsert-contact.md"
    assert docs_site.with_links_for_the_site(page, PAGES, set()) == expected


def test_the_navigation_is_the_table_of_the_readme() -> None:
    readme = (
        "| **Start** | |\n| [Connection](docs/connection.md) | x |\n| **Run** | |\n| [By `make`](docs/run-it.md) | |\n"
    )
    assert docs_site.groups(readme) == [
        docs_site.Group("Start", [("Connection", "connection")]),
        docs_site.Group("Run", [("By make", "run-it")]),
    ]
    assert "\n:hidden:\n:caption: Run\n\nBy make <run-it>\n" in docs_site.navigation(readme)


def test_every_document_is_in_the_navigation() -> None:
    shown = [name for group in docs_site.groups((ROOT / "README.md").read_text("utf-8")) for _, name in group.pages]
    assert sorted(shown) == sorted(path.stem for path in DOCS.glob("*.md"))


@pytest.mark.parametrize("folder", sorted({path.parent.name for path in DOCS.glob("*/*.md")}))
def test_every_page_of_a_folder_is_in_the_table_of_the_document_of_its_name(folder: str) -> None:
    shown = [name for _, name in docs_site.pages_below(DOCS / f"{folder}.md")]
    assert sorted(shown) == sorted(f"{folder}/{path.stem}" for path in (DOCS / folder).glob("*.md"))


def test_what_sphinx_reads_is_all_there(tmp_path: Path) -> None:
    docs_site.stage(tmp_path)
    assert {path.name for path in tmp_path.glob("*.md")} >= {"index.md", "changelog.md", "load.md", "faq.md"}
    assert "orphan: true" in (tmp_path / "example_dags-crm_quickstart.md").read_text("utf-8")


# -- checking


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "index.html").write_text('<h1 id="top">x</h1><a href="a b.html#there">a</a><img src="x.png">')
    (tmp_path / "a b.html").write_text(
        '<p id="there"><a href="index.html#top">x</a> <a href="https://example.com">y</a>'
    )
    (tmp_path / "x.png").touch()
    (tmp_path / "x.css").write_text("a { background: url('x.png') }")
    return tmp_path


def test_a_good_site_has_no_problems(site: Path) -> None:
    assert docs_html.problems(site) == []


@pytest.mark.parametrize(
    ("file", "text", "problem"),
    [
        ("b.html", '<a href="gone.html">x</a>', "b.html: the link gone.html leads nowhere"),
        ("b.html", '<a href="index.html#gone">x</a>', "b.html: index.html#gone: the page is there, the anchor is not"),
        ("b.html", '<a href="#gone">x</a>', "b.html: #gone: the page is there, the anchor is not"),
        ("b.html", '<img src="gone.png">', "b.html: the link gone.png leads nowhere"),
        ("b.html", '<script src="//cdn.example.com/x.js">', "b.html: loads //cdn.example.com/x.js from elsewhere"),
        (
            "b.html",
            '<link href="https://fonts.example.com/x">',
            "b.html: loads https://fonts.example.com/x from elsewhere",
        ),
        ("b.css", "@import 'https://x.example.com/y.css'", "b.css: loads https://x.example.com/y.css from elsewhere"),
        ("b.css", "a { src: url(//x.example.com/f) }", "b.css: loads //x.example.com/f from elsewhere"),
    ],
)
def test_what_is_wrong_is_told(site: Path, file: str, text: str, problem: str) -> None:
    (site / file).write_text(text)
    assert docs_html.problems(site) == [problem]
