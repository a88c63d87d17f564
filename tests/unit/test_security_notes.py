"""The threat notes name existing tests, and their statements about the code are true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTES = ROOT / "docs" / "security.md"
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", NOTES.read_text("utf-8"))))
CODE = sorted((ROOT / "crm_provider").rglob("*.py"))


def test_notes_name_tests() -> None:
    assert len(NAMED) > 20


@pytest.mark.parametrize(("file", "test"), NAMED, ids=str)
def test_named_test_exists(file: str, test: str) -> None:
    text = (ROOT / file).read_text("utf-8")
    assert f"def {test}(" in text if test else "def test_" in text


def test_every_measure_has_a_test() -> None:
    table = NOTES.read_text("utf-8").partition("## Measures")[2].partition("\n## ")[0]
    rows = [row for row in table.splitlines() if row.startswith("| ")][2:]
    assert len(rows) > 15
    assert [row for row in rows if "`tests/" not in row] == []


def test_exception_from_a_security_rule_has_a_reason() -> None:
    lines = [line for path in CODE for line in path.read_text("utf-8").splitlines() if re.search(r"noqa: S\d", line)]
    assert lines
    assert [line for line in lines if not re.search(r"noqa: S\d+ - \w+", line)] == []


UNSAFE = re.compile(r"\b(eval|exec|__import__)\(|\b(yaml|marshal|shelve|dill|cloudpickle)\b|shell=True|verify=False")


def test_nothing_from_outside_is_executed() -> None:
    code = {path.relative_to(ROOT).as_posix(): path.read_text("utf-8") for path in CODE}
    assert {name: found[0] for name, text in code.items() if (found := UNSAFE.search(text))} == {}
    assert [name for name, text in code.items() if "pickle.load" in text] == ["crm_provider/load/state/temp_tables.py"]
