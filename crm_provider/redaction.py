"""Texts fit to be shown: short, in one line, without the values of rows, without secrets."""

from __future__ import annotations

import re
from collections.abc import Iterable

SHORTENED = 200
"""Characters of an unknown body that a message may show."""


def cut(text: str) -> str:
    """A text in one line, without control characters, of at most :data:`SHORTENED` characters."""
    text = " ".join(_printable(text).split())
    return text if len(text) <= SHORTENED else f"{text[:SHORTENED]}..."


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)


_EMAIL = re.compile(r"(?<![^\s\"'<>@,;:()\[\]{}])[^\s\"'<>@,;:()\[\]{}]+(?:@|%40)[^\s\"'<>@,;:()\[\]{}]+")


_PRIVATE_PATH = re.compile(r"(/(?:contacts|add-contact|email-verification|webhook)/)(?!\{)[^\s\"?]+")


def private_path(path: str) -> str:
    """A path without the parts that are personal data or secrets, wherever it came from."""
    return _PRIVATE_PATH.sub(r"\1...", path)


def without_values(text: str, sent: Iterable[str]) -> str:
    """A text without the values that were sent and without anything that looks like an email address."""
    for value in sorted(sent, key=len, reverse=True):
        if len(value) >= 3:  # shorter ones are parts of ordinary words
            text = re.sub(re.escape(value), "[value]", text, flags=re.IGNORECASE)
    return _EMAIL.sub("[email]", text)
