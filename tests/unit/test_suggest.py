"""The only "did you mean": the suggested choice, and the sentences built with it."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

import crm_provider
from crm_provider.values.suggest import check_choice, did_you_mean, hint, nearest, unknown, unknown_value

CHOICES = ["DEAL_NOT_FOUND", "CONTACT_NOT_FOUND", "skip", "fail"]


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("DEAL_NOT_FOUNT", "DEAL_NOT_FOUND"),
        ("deal_not_found", "DEAL_NOT_FOUND"),
        ("SKP", "skip"),
        ("skip it", "skip"),
        ("zzz", None),
        ("", None),
        (None, None),
        (5, None),
        (["skip"], None),
    ],
)
def test_nearest_choice(word: Any, expected: str | None) -> None:
    assert nearest(word, CHOICES) == expected


def test_nothing_to_choose_from() -> None:
    assert nearest("skip", []) is None


def test_sentences() -> None:
    assert did_you_mean("skp", CHOICES, otherwise="See there.") == "Did you mean 'skip'?"
    assert did_you_mean("zzz", CHOICES, otherwise="See there.") == "See there."
    assert did_you_mean("zzz", CHOICES) == ""
    assert hint("skp", CHOICES, "give one") == "did you mean 'skip'? Give one"
    assert hint("zzz", CHOICES, "give one") == "give one"
    assert unknown("action", "skp", iter(["skip", "fail"])) == (
        "action 'skp' is unknown; did you mean 'skip'? Known: skip, fail"
    )
    assert unknown("action", "zzz", ["skip", "fail"]) == "action 'zzz' is unknown; known: skip, fail"
    assert unknown_value("action", "skp", iter(["skip", "fail"])) == (
        "action='skp' is unknown; did you mean 'skip'? Known: skip, fail"
    )


def test_choice_is_checked() -> None:
    check_choice("action", "skip", ["skip", "fail"])
    with pytest.raises(ValueError, match="action=None is unknown; known: skip, fail"):
        check_choice("action", None, ["skip", "fail"])


def test_no_other_module_searches_for_the_nearest_word() -> None:
    """The sandbox is independent: it imports only the catalogue."""
    package = Path(crm_provider.__file__).parent
    users = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if (isinstance(node, ast.Import) and any(alias.name == "difflib" for alias in node.names))
        or (isinstance(node, ast.ImportFrom) and node.module == "difflib")
    }
    assert {user for user in users if not user.startswith("sandbox/")} == {"values/suggest.py"}
