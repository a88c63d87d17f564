"""Values as Python code, laid out as `ruff format` lays it out: for code that people paste into their DAGs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

LINE = 110
"""Maximum characters of a line, unless a single string is longer: strings are not split."""

_INDENT = "    "
_BRACKETS: Mapping[type, tuple[str, str]] = {dict: ("{", "}"), list: ("[", "]"), tuple: ("(", ")")}


def argument(name: str, value: Any, *, indent: str = "") -> Iterator[str]:
    """The lines of a keyword argument, with the comma after it.

    Containers that do not fit in one line have one element per line, and a trailing comma. ``...`` is a value, too.

    >>> list(argument("mapping", {"email": "E-mail", "phone": ...}))
    ['mapping={"email": "E-mail", "phone": ...},']

    :param indent: spaces before each line
    """
    yield from _lines(f"{indent}{name}=", value, indent)


def _lines(before: str, value: Any, indent: str) -> Iterator[str]:
    line = f"{before}{_in_one_line(value)},"
    if len(line) <= LINE or not _is_container(value) or not value:
        yield line
        return
    opening, closing = _BRACKETS[type(value)]
    yield before + opening
    for key, element in _elements(value):
        yield from _lines(f"{indent}{_INDENT}{key}", element, indent + _INDENT)
    yield f"{indent}{closing},"


def _in_one_line(value: Any) -> str:
    if type(value) is str:
        return _string(value)
    if not _is_container(value):
        return "..." if value is ... else repr(value)
    opening, closing = _BRACKETS[type(value)]
    elements = ", ".join(key + _in_one_line(element) for key, element in _elements(value))
    comma = "," if isinstance(value, tuple) and len(value) == 1 else ""
    return f"{opening}{elements}{comma}{closing}"


def _is_container(value: Any) -> bool:
    return type(value) in _BRACKETS


def _elements(value: Any) -> Iterator[tuple[str, Any]]:
    """The elements of a container, each with the code before it."""
    if isinstance(value, dict):
        yield from ((f"{_in_one_line(key)}: ", element) for key, element in value.items())
    else:
        yield from (("", element) for element in value)


def _string(text: str) -> str:
    """A string in double quotes, or in single quotes if these need fewer backslashes."""
    escaped = repr(f'"{text}')[2:-1]  # in single quotes, whatever it contains
    body = escaped.replace("\\'", "'")
    return f"'{escaped}'" if body.count('"') > body.count("'") else '"{}"'.format(body.replace('"', '\\"'))
