"""Values that a task is given and that Airflow must not store and show: rows, and addresses.

Airflow keeps every rendered template field in its database and shows it to everyone who may see the task.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from airflow.sdk import XComArg

from crm_provider.files.paths import AnyPath

PLAIN = (bool, int, float, type(None))
"""Types of most arguments, checked first: the check for a path is slow before Python 3.12."""


class Hidden:
    """A list in a template field, of which Airflow stores and shows only how long it is.

    :param items: the list, or the text that a template made of one
    :param noun: what its items are
    """

    template_fields = ("items",)
    """Airflow renders templates in here, too."""

    def __init__(self, items: Any, noun: str) -> None:
        self.items = items
        self.noun = noun

    def __str__(self) -> str:
        return f"text of {self.noun}" if isinstance(self.items, str) else f"{len(self.items)} {self.noun}"

    __repr__ = __str__


def hide_rows(value: Any) -> Any:
    """A load's source for a template field: a list is hidden, unless it is one of paths."""
    if isinstance(value, str):
        return Hidden(value, "rows") if value.lstrip().startswith("[{") else value
    if isinstance(value, (list, tuple)) and all(isinstance(item, (str, AnyPath)) for item in value):
        return [path_text(item) for item in value]
    is_pages = isinstance(value, (list, tuple)) and isinstance(value[0], (list, tuple))
    return hide_list(path_text(value), "pages of rows" if is_pages else "rows")


def hide_list(value: Any, noun: str) -> Any:
    """A value for a template field: hidden if it is a list."""
    if isinstance(value, (str, bytes, Hidden)) or not isinstance(value, (Sequence, set, frozenset)):
        return value
    return value if refers_to_tasks(value) else Hidden(value, noun)


def path_text(value: Any) -> Any:
    """A value for a template field, a local path as text: Airflow 3.1 takes its ``resolve`` for that of a template."""
    return str(value) if isinstance(value, PurePath) and "://" not in str(value) else value


def unmask(value: Any) -> Any:
    """The value behind a :class:`Hidden`, or the value itself."""
    return value.items if isinstance(value, Hidden) else value


def refers_to_tasks(value: Any) -> bool:
    """Whether another task's result is in a value: it is there only when the task runs."""
    return isinstance(value, (XComArg, list, tuple, dict)) and any(True for _ in XComArg.iter_xcom_references(value))


def comes_later(value: Any) -> bool:
    """Whether a value, or a part of it, is known only when the task runs: a template or another task's result."""
    if isinstance(value, Hidden):
        return comes_later(value.items)
    if isinstance(value, str):
        return "{{" in value or "{%" in value
    if isinstance(value, Mapping):
        return any(comes_later(item) for item in value.values())
    if isinstance(value, (list, tuple)):
        return any(comes_later(item) for item in value)
    if not isinstance(value, PLAIN) and isinstance(value, AnyPath):
        return comes_later(str(value))
    return hasattr(value, "resolve")
