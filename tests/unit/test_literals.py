"""Values as Python code, laid out as `ruff format` does."""

from __future__ import annotations

import ast
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from crm_provider.values.literals import LINE, argument

SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.text(), st.just(...))
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner), st.lists(inner).map(tuple), st.dictionaries(st.one_of(st.text(), st.integers()), inner)
    ),
)

WIDE = {"name": "n" * 40, "phone": {"column": "p" * 40, "null_values": ("none",)}, "tags": ["t" * 60, "u" * 60]}


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ({"email": "E-mail", "phone": ...}, 'x={"email": "E-mail", "phone": ...},'),
        ([1, 2.5, True, None], "x=[1, 2.5, True, None],"),
        (("one",), 'x=("one",),'),
        ([{}, [], ()], "x=[{}, [], ()],"),
        ("it's", 'x="it\'s",'),
        ('a "b"', "x='a \"b\"',"),
        ('it\'s "b"', "x='it\\'s \"b\"',"),
        ("\"it's", 'x="\\"it\'s",'),
        ("C:\\new\n\u202eé", 'x="C:\\\\new\\n\\u202eé",'),
        ("\\'", 'x="\\\\\'",'),
    ],
)
def test_short_value_is_one_line(value: Any, code: str) -> None:
    assert list(argument("x", value)) == [code]


def test_long_value_has_one_element_per_line() -> None:
    assert list(argument("mapping", WIDE, indent="  ")) == [
        "  mapping={",
        f'      "name": "{"n" * 40}",',
        f'      "phone": {{"column": "{"p" * 40}", "null_values": ("none",)}},',
        '      "tags": [',
        f'          "{"t" * 60}",',
        f'          "{"u" * 60}",',
        "      ],",
        "  },",
    ]


@pytest.mark.parametrize(("letters", "lines"), [(LINE - 7, 1), (LINE - 6, 3)])
def test_line_may_have_the_maximum_length(letters: int, lines: int) -> None:
    """The letters are surrounded by ``x=["`` and ``"],``."""
    assert len(list(argument("x", ["a" * letters]))) == lines


@given(VALUES)
@example({"a": WIDE})
def test_python_reads_the_same_value(value: Any) -> None:
    code = "\n".join(argument("x", value))
    assert ast.literal_eval(code.removeprefix("x=").removesuffix(",")) == value


def test_ruff_leaves_the_code_unchanged() -> None:
    values = [
        WIDE,
        {"deep": [WIDE, [WIDE], (("t" * 110,),)]},
        "l" * 200,
        ['"', "'", "'\"", "\\'", "\t\x00é—"],
        [["a" * 99]],
    ]
    calls = ["\n".join(["call(", *argument("x", value, indent=" " * 4), ")", ""]) for value in values]
    command = [sys.executable, "-m", "ruff", "format", "--isolated", "--line-length", str(LINE), "-"]
    formatted = subprocess.run(command, input="".join(calls), capture_output=True, encoding="utf-8", check=True)
    assert formatted.stdout == "".join(calls)
