"""The tables of docs/reliability.md: an observation of a test becomes a line, and a differing line is reported."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
import reliability
from reliability import Seen

from crm_provider import errors as e

ERROR = e.CrmConnectionError("no | way to 127.0.0.1:34567", method="POST", path="/contacts", outcome_known=False)
EMPTY = (
    "# Page\n\n<!-- reliability: network -->\n\n<!-- end -->\n\n<!-- reliability: process -->\n\n<!-- end -->\ntext\n"
)


def seen(**fields: Any) -> Seen:
    what = {"part": "network", "fault": "refused", "hits": "upsert", "ends": "failed", "requests": 0, "data": "kept"}
    return Seen.of(**{"error": ERROR, **what, **fields})


@pytest.fixture
def document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "reliability.md"
    path.write_text(EMPTY, encoding="utf-8")
    monkeypatch.setattr(reliability, "DOCUMENT", path)
    return path


def wrote(tmp_path: Path, *lines: Seen, arguments: tuple[str, ...] = ()) -> int:
    file = tmp_path / "seen.jsonl"
    file.write_text("", encoding="utf-8")
    for line in lines:
        reliability.note(file, line)
    return reliability.main([str(file), *arguments])


def test_error_text_has_the_message_and_the_advice() -> None:
    line = seen()
    assert line.said == "`CrmConnectionError`: no | way to 127.0.0.1:PORT. The write may or may not have happened"
    assert line.remedy == ERROR.suggested_action


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("at 127.0.0.1:1234 and localhost:99", "at 127.0.0.1:PORT and localhost:PORT"),
        ("deal 123e4567-e89b-12d3-a456-426614174000.", "deal ID."),
        ("until 2026-01-02T03:04:05.678+00:00, then", "until TIME, then"),
        ("wrote '/tmp/a-b/c.d_1/x.csv', 2 rows", "wrote 'FILE', 2 rows"),
        ("tried 3 times in 1.2 s", "tried 3 times in N s"),
        ("on POST /contacts/{email}", "on POST /contacts/{email}"),
        ("two\nlines", "two lines"),
        ("[" * 99, "[[[..."),
        ("not trusted: self signed certificate", "not trusted: self-signed certificate"),
    ],
)
def test_texts_are_the_same_in_every_run(text: str, shown: str) -> None:
    assert reliability.stable(text) == shown


def test_line_missing_in_the_document_is_reported_with_the_command(document: Path) -> None:
    reported = reliability.difference(seen(), document)
    assert reported is not None
    assert reliability.REGENERATE in reported
    assert "no such line" in reported


def test_written_observation_is_read_back(document: Path, tmp_path: Path) -> None:
    other = seen(part="process", fault="killed")
    assert wrote(tmp_path, seen(), other) == 0
    assert [reliability.difference(line, document) for line in (seen(), other)] == [None, None]
    reported = reliability.difference(seen(ends="success"), document)
    assert reported is not None
    assert seen().line in reported
    assert document.read_text(encoding="utf-8").endswith("<!-- end -->\ntext\n")


def test_complete_run_replaces_its_part_and_no_other(document: Path, tmp_path: Path) -> None:
    wrote(tmp_path, seen(), seen(hits="load"), seen(part="process"))
    wrote(tmp_path, seen(hits="load"))
    held = reliability.tables(document)
    assert (list(held["network"]), list(held["process"])) == ([("refused", "load")], [("refused", "upsert")])


def test_line_not_observed_by_a_complete_run_is_removed_and_reported(
    document: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrote(tmp_path, seen(), seen(hits="load"), seen(part="process"))
    assert capsys.readouterr().err == ""
    wrote(tmp_path, seen(hits="load"))
    assert capsys.readouterr().err == "removed from network, because no test recorded it: refused (upsert)\n"
    wrote(tmp_path, seen(), arguments=("--only-seen",))
    assert capsys.readouterr().err == ""


def test_every_line_about_local_failures_has_a_test() -> None:
    """Several tests may observe a line. The other two tables are checked by their own tests."""
    sources = [path.read_text(encoding="utf-8") for path in Path(__file__).parents[1].glob("[is]*/test_*.py")]
    tests = [_texts(source) for source in sources if 'reliability("process")' in source]
    lines = reliability.tables(reliability.DOCUMENT)["process"]
    assert lines
    assert [key for key in lines if not any(texts.issuperset(key) for texts in tests)] == []


def _texts(source: str) -> set[str]:
    nodes = ast.walk(ast.parse(source))
    return {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
