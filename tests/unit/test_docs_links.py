"""External links of the documents; whether they are still there is asked by ``scripts/docs_links.py --fetch``."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import docs_links
import docs_text
import pytest


def test_the_documents_links_are_well_formed(capsys: pytest.CaptureFixture[str]) -> None:
    assert docs_links.main([]) == 0, capsys.readouterr().out


@pytest.mark.parametrize(
    ("link", "problem"),
    [
        ("https://semver.org/", None),
        ("https://docs.python.org/3/library/datetime.html#format-codes", None),
        ("http://semver.org/", "does not begin with https://"),
        ("//semver.org/", "does not begin with https://"),
        ("mailto:someone@example.com", "does not begin with https://"),
        ("https://semver.org.example.com/", "leads to semver.org.example.com, which is not in HOSTS"),
        ("https://semver.org@example.com/", "has a user, a password or a port"),
        ("https://semver.org:8443/", "has a user, a password or a port"),
        ("https://semver.org:port/", "is no address"),
        ("https://[::1/", "is no address"),
        ("https://semver.org/50%", "has characters that must be escaped"),
        ("https://semver.org/{version}", "has characters that must be escaped"),
    ],
)
def test_objections(link: str, problem: str | None) -> None:
    found = docs_links.objection(link)
    assert found is None if problem is None else str(found).startswith(problem)


def test_links_are_found_wherever_a_code_host_makes_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "[a](https://a.example.com) <https://b.example.com/x> and https://c.example.com/y or `https://no.example.com`\n"
        "[d](//d.example.com) [e](page.md#anchor) [f](mailto:f@example.com)\n"
        "```text\nhttps://no.example.com\n```\n"
    )
    monkeypatch.setattr(docs_text, "documents", lambda: [page])
    monkeypatch.setattr(docs_links, "ROOT", tmp_path)
    assert sorted(docs_links.external_links()) == [
        ("page.md", "//d.example.com"),
        ("page.md", "https://a.example.com"),
        ("page.md", "https://b.example.com/x"),
        ("page.md", "https://c.example.com/y"),
        ("page.md", "mailto:f@example.com"),
    ]
    assert docs_links.main([]) == 1


# -- fetching -----------------------------------------------------------------------------------------------


class Site(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response({"/there": 200, "/moved": 302}.get(self.path, 404))
        if self.path == "/moved":
            self.send_header("Location", f"http://localhost:{self.server.server_address[1]}/there")
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        """Nothing."""


@pytest.fixture
def site() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("path", "problem"), [("/there", None), ("/gone", "answers 404"), ("/moved", "leads on to localhost")]
)
def test_what_is_there(path: str, problem: str | None, site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(docs_links, "HOSTS", {"127.0.0.1"})
    assert docs_links.answer(f"{site}{path}") == problem


def test_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert str(docs_links.answer("http://127.0.0.1:9/")).startswith("does not answer")
