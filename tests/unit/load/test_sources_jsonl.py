"""JSON lines: exact numbers, and a line that is not an object is a row with a problem."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from crm_provider.load.rows import Row, SourceError
from crm_provider.load.sources.source import open_source


def rows(folder: Path, text: str, name: str = "leads.jsonl") -> list[Row]:
    path = folder / name
    path.write_bytes(text.encode())
    return list(open_source(path).rows())


VALUES: list[tuple[str, Any]] = [
    ("0.1", Decimal("0.1")),
    ("12345678901234567890.123456789", Decimal("12345678901234567890.123456789")),
    ("1.10", Decimal("1.10")),
    ("1e3", Decimal(1000)),
    ("12345678901234567890", 12345678901234567890),
    ("null", None),
    ("true", True),
    ('["a", {"b": 1.5}]', ["a", {"b": Decimal("1.5")}]),
    ('"caf\\u00e9 \\ud83d\\ude00"', "café \U0001f600"),
]


@pytest.mark.parametrize(("text", "value"), VALUES)
def test_values_are_read_as_written(tmp_path: Path, text: str, value: Any) -> None:
    (row,) = rows(tmp_path, f'{{"v": {text}}}\n')
    assert row == Row(1, {"v": value})
    assert type(row.values["v"]) is type(value)
    assert str(row.values["v"]) == str(value) or value == 1000


def test_columns_are_unknown_before_reading(tmp_path: Path) -> None:
    path = tmp_path / "leads.jsonl"
    path.write_text('{"a": 1}\n{"b": 2}\n', encoding="utf-8")
    source = open_source(path)
    assert source.columns is None
    assert list(source.rows()) == [Row(1, {"a": 1}), Row(2, {"b": 2})]


def test_empty_file_has_no_rows(tmp_path: Path) -> None:
    assert rows(tmp_path, "") == rows(tmp_path, "\n \n\r\n") == []


BAD: list[tuple[str, str]] = [
    ("secret", "is not JSON from character 1 on"),
    ('{"v": "secret"', "is not JSON from character 15 on"),
    ('{"v": "secret"} {"v": 2}', "is not JSON from character 17 on"),
    ("[1, 2]", "is JSON but not an object"),
    ('"secret"', "is JSON but not an object"),
    ("null", "is JSON but not an object"),
    ('{"secret": 1, "secret": 2}', "has the same key twice in an object"),
    ('{"v": [{"secret": 1, "secret": 1}]}', "has the same key twice in an object"),
    ('{"v": NaN}', "holds NaN, which is not valid JSON"),
    ('{"v": -Infinity}', "holds -Infinity, which is not valid JSON"),
    ('{"v": 1e401}', "holds a number that is too large or too small"),
    ('{"v": 1e-99999999}', "holds a number that is too large or too small"),
    ('{"v": 1e99999999999999999999999}', "holds a number that is too large"),
    (f'{{"v": {"9" * 5000}}}', "holds a number that is too large"),
    ('{"v": "secret \\ud83d"}', "holds half a character (a lone surrogate)"),
    ('{"\\uDC00": 1}', "holds half a character (a lone surrogate)"),
    ('{"v": ' + "[" * 200_000, "is nested too deeply"),
]


@pytest.mark.parametrize(("line", "problem"), BAD, ids=[f"{n}-{what}" for n, (_, what) in enumerate(BAD)])
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["lf", "crlf"])
def test_bad_line_is_a_row_with_a_problem(tmp_path: Path, line: str, problem: str, end: str) -> None:
    before, bad, after = rows(tmp_path, f'{{"v": 1}}{end}{end}{line}{end}{{"v": 3}}{end}')
    assert (before, after) == (Row(1, {"v": 1}), Row(3, {"v": 3}))
    assert (bad.number, bad.values) == (2, {"__line__": line})
    assert (bad.problem or "").startswith(f"{tmp_path}/leads.jsonl, line 3 {problem}")
    assert "secret" not in (bad.problem or "")


def test_truncated_file_keeps_its_last_line_as_a_problem(tmp_path: Path) -> None:
    (only,) = rows(tmp_path, '{"v": 2,')
    assert only.problem == f"{tmp_path}/leads.jsonl, line 1 is not JSON from character 9 on"
    good, cut = rows(tmp_path, '{"v": 1}\n{"v": 2')
    assert good.problem is None
    assert cut.problem == f"{tmp_path}/leads.jsonl, line 2 is not JSON from character 8 on"


@pytest.mark.parametrize(
    "text",
    ['[\n{"v": 1}\n]\n', '[{"v": 1}]', '\n {\n"v": 1\n}\n', '{"v": [\n{"v": 1},\n{"v": 2}\n]}', '{"v": 1, \n"w": 2}'],
)
@pytest.mark.parametrize("name", ["leads.json", "leads.jsonl"])
def test_json_text_over_many_lines_is_refused_with_a_hint(tmp_path: Path, text: str, name: str) -> None:
    with pytest.raises(
        SourceError, match=rf"{name}, line \d begins a JSON text of many lines.* write JSON lines instead"
    ):
        rows(tmp_path, text, name)
