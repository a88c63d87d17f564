"""Templated arguments of tasks: hidden values, and paths.

Values that a task is given and that Airflow must not store and show: rows, and addresses.

Airflow keeps every rendered template field in its database and shows it to everyone who may see the task.

Paths in a task's arguments: a URL is opened by Airflow, with the connection that it names.

What templates make of a task's fields: texts stay texts, and a missing value is an error and no text ``None``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from airflow.sdk import XComArg

from crm_provider import config
from crm_provider.errors import CrmInvalidValueError
from crm_provider.files.paths import AnyPath, as_path
from crm_provider.load.rows import SourceError

if TYPE_CHECKING:
    import jinja2

    from crm_provider._compat import Context


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


def path_of(value: Any, name: str) -> AnyPath:
    """A path as the core takes it.

    :param name: of the argument, for messages
    :raises SourceError: if it is no path
    """
    try:
        return as_path(with_connection(value))
    except ValueError as wrong:
        raise SourceError(f"{name}: {wrong}") from None


def with_connection(value: Any) -> Any:
    """A URL, or the URLs of a list, as ``ObjectStoragePath``, which knows its connection; anything else as it is."""
    value = unmask(value)
    if isinstance(value, list):
        return [with_connection(item) if isinstance(item, str) else item for item in value]
    if isinstance(value, str) and "://" in value:
        from airflow.sdk import ObjectStoragePath

        return ObjectStoragePath(value)
    return value


def site_report(ti: Any) -> AnyPath | None:
    """Where a load of a task leaves its report if only the site says so: one file for each task instance.

    :raises SourceError: if the site's ``report_directory`` is no path
    """
    folder = config.report_directory()
    if folder is None:
        return None
    parts = [ti.dag_id, ti.run_id, ti.task_id, *([ti.map_index] if ti.map_index >= 0 else [])]
    name = "__".join(re.sub(r"[^\w.+-]", "_", str(part)) for part in parts)
    place = "report_directory in section [crm] of Airflow's configuration"
    return path_of(f"{folder.rstrip('/')}/{name}.report.md", place)


_END = "\ue000"
"""A character that no value ends with: text with it is evaluated by nobody."""

_FROM_TEXT = (bool, int, float, complex, bytes, type(None))
"""What native rendering makes of a text that reads like a Python value, besides lists, mappings and sets."""


class Missing(str):
    """The text ``None`` that stands for a value that was not there when a template was rendered."""

    __slots__ = ()


class RenderedFieldsMixin:
    """Renders the template fields of an operator or sensor.

    - A text without a template marker stays the text that the author wrote, also if the DAG renders natively
      (``"2024"``, ``"+5531999999999"``).
    - A text stays a text. Native rendering would make the number 5531999999999 of the text ``"+5531999999999"`` in a
      variable. Numbers, booleans, lists and mappings keep their types, and lists and mappings are made of texts.
    - A value that is ``None`` becomes :class:`Missing`, which :func:`check_rendered` refuses. Only within a list or
      mapping that is rendered natively it stays ``None``: there JSON has a form for it.
    """

    template_ext: Any
    _rendering = False
    """Whether a field is being rendered, so that what is rendered now is a part of it."""

    def render_template(
        self,
        content: Any,
        context: Context,
        jinja_env: jinja2.Environment | None = None,
        seen_oids: set[int] | None = None,
    ) -> Any:
        """Airflow's ``render_template``, with the rules of this class."""
        if isinstance(content, str):
            env = jinja_env or self.get_template_env()  # type: ignore[attr-defined]
            found = self._render_text(content, context, env, seen_oids)
            return Missing("None") if found is None and not self._rendering else found
        if self._rendering:
            return super().render_template(content, context, jinja_env, seen_oids)  # type: ignore[misc]
        self._rendering = True
        try:
            found = super().render_template(content, context, jinja_env, seen_oids)  # type: ignore[misc]
        finally:
            self._rendering = False
        return Missing("None") if found is None and content is not None else found

    def _render_text(self, content: str, context: Context, env: jinja2.Environment, seen_oids: set[int] | None) -> Any:
        is_file = bool(self.template_ext) and content.endswith(tuple(self.template_ext))
        if not is_file and not _has_marker(content, env):
            return content
        outputs: list[Any] = []
        noting = env if env.finalize is not None else env.overlay(finalize=_noting(outputs))
        found = super().render_template(content, context, noting, seen_oids)  # type: ignore[misc]
        if isinstance(found, str):
            return Missing(found) if found == "None" and outputs[-1:] == [None] else found
        if not isinstance(found, _FROM_TEXT) or is_file:
            return found
        text = super().render_template(f"{content}{_END}", context, env, seen_oids)[:-1]  # type: ignore[misc]
        is_value = len(outputs) == 1 and type(outputs[0]) is type(found) and str(outputs[0]) == text
        return found if is_value else text


def is_mapped(task: Any) -> bool:
    """Whether a task is one of a mapped task: its values are checked when it runs, so that the policy decides."""
    return bool(getattr(task, "_BaseOperator__from_mapped", False))


def check_rendered(task: Any) -> None:
    """Refuse fields whose template or upstream task had no value.

    :raises CrmInvalidValueError: naming the field
    """
    for name in task.template_fields:
        for place in _missing(getattr(task, name, None), name):
            raise rendered_to_none(place)


def rendered_to_none(field: str) -> CrmInvalidValueError:
    """The error for a field that was rendered to ``None``."""
    return CrmInvalidValueError(
        f"{field} was rendered to None: the variable, parameter or result of a task that it refers to has no value; "
        "give it one, or a default in the template"
    )


def _missing(value: Any, place: str) -> Iterator[str]:
    """The places of what was rendered to None."""
    if isinstance(value, Missing):
        yield place
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from _missing(item, f"{place}[{name!r}]")
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            yield from _missing(item, f"{place}[{number}]")


def _noting(outputs: list[Any]) -> Callable[[Any], Any]:
    def note(value: Any) -> Any:
        outputs.append(value)
        return value

    return note


def _has_marker(text: str, env: jinja2.Environment) -> bool:
    marks = (env.variable_start_string, env.block_start_string, env.comment_start_string)
    lines = (env.line_statement_prefix, env.line_comment_prefix)
    return any(mark in text for mark in (*marks, *lines) if mark)
