"""Template fields of tasks: hidden values, paths, and rendering.

Airflow stores every rendered template field in its database and shows it to everyone who can see the task. So rows and
addresses are hidden. Airflow opens a URL with the connection that it names. Rendering keeps texts as texts, and a
missing value is an error instead of the text ``None``.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from airflow.sdk import XComArg

from crm_provider.errors import CrmInvalidValueError
from crm_provider.files.paths import AnyPath, as_path, is_content
from crm_provider.load.rows import SourceError, is_table
from crm_provider.values.counted import counted

if TYPE_CHECKING:
    import jinja2

    from crm_provider._compat import Context


SIMPLE_TYPES = (bool, int, float, type(None))
"""Types of most arguments, checked first: the check for a path is slow before Python 3.12."""


class Hidden:
    """A list in a template field. Airflow stores and shows only its length.

    :param items: the list, or the text that a template rendered it to
    :param noun: what one of the items is
    :param nouns: what several of them are
    """

    template_fields = ("items",)
    """Airflow renders the templates in here as well."""

    def __init__(self, items: Any, noun: str, nouns: str) -> None:
        self.items = items
        self.noun, self.nouns = noun, nouns

    def __str__(self) -> str:
        if isinstance(self.items, str):
            return f"text of {self.nouns}"
        return counted(len(self.items), self.noun, self.nouns) if hasattr(self.items, "__len__") else self.nouns

    __repr__ = __str__


def hide_rows(value: Any) -> Any:
    """A load's source as a template field: a table is hidden, and a list unless it contains paths."""
    if isinstance(value, (list, tuple)) and all(isinstance(item, (str, AnyPath)) for item in value):
        return [path_text(item) for item in value]
    if is_table(value):
        return Hidden(value, "row", "rows")
    is_pages = isinstance(value, (list, tuple)) and isinstance(value[0], (list, tuple))
    nouns = ("page of rows", "pages of rows") if is_pages else ("row", "rows")
    return hide_list(path_text(value), *nouns)


def hide_list(value: Any, noun: str, nouns: str) -> Any:
    """A value as a template field: hidden if it is a list, also one that a template has turned into text."""
    if isinstance(value, str) and is_content(value):
        return Hidden(value, noun, nouns)
    if isinstance(value, (str, bytes, Hidden)) or not isinstance(value, (Sequence, set, frozenset)):
        return value
    return value if refers_to_tasks(value) else Hidden(value, noun, nouns)


def path_text(value: Any) -> Any:
    """A value as a template field. A local path becomes text: Airflow 3.1 would call its ``resolve`` method."""
    return str(value) if isinstance(value, PurePath) and "://" not in str(value) else value


def unmask(value: Any) -> Any:
    """The value behind a :class:`Hidden`, or the value itself."""
    return value.items if isinstance(value, Hidden) else value


def refers_to_tasks(value: Any) -> bool:
    """Whether a value contains another task's result, which is known only when the task runs."""
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
    if not isinstance(value, SIMPLE_TYPES) and isinstance(value, AnyPath):
        return comes_later(str(value))
    return hasattr(value, "resolve")


def path_of(value: Any, name: str) -> AnyPath:
    """A path for the core.

    :param name: the argument's name, for messages
    :raises SourceError: if the value is not a path
    """
    try:
        return as_path(with_connection(value))
    except ValueError as wrong:
        raise SourceError(f"{name}: {wrong}") from None


def with_connection(value: Any) -> Any:
    """A URL, or each URL of a list, as ``ObjectStoragePath``, which has its connection; other values unchanged.

    :raises SourceError: if Airflow cannot open it
    """
    value = unmask(value)
    if isinstance(value, (list, tuple)):
        return [with_connection(item) if _is_path(item) else item for item in value]
    if isinstance(value, str) and is_content(value):
        return value  # no URL, even if it holds one
    if (scheme := _unopened(value)) is not None:
        install = f"; install {STORES[scheme]}, and restart Airflow" if scheme in STORES else ""
        raise SourceError(f"no installed provider opens {scheme}:// URLs{install}")
    if isinstance(value, str) and "://" in value:
        from airflow.sdk import ObjectStoragePath

        return ObjectStoragePath(value)
    return value


def _is_path(item: Any) -> bool:
    """Whether an item of a list is a path. Rows come first: the check of a protocol takes 35 µs on Python 3.11."""
    return isinstance(item, str) or (not isinstance(item, Mapping) and isinstance(item, AnyPath))


STORES: Mapping[str, str] = {
    **dict.fromkeys(("s3", "s3a", "s3n"), "apache-airflow-providers-amazon[s3fs]"),
    **dict.fromkeys(("gs", "gcs"), "apache-airflow-providers-google"),
    **dict.fromkeys(("abfs", "abfss", "adl"), "apache-airflow-providers-microsoft-azure"),
}
"""Scheme of a URL -> the provider whose file system opens it."""


def _unopened(path: Any) -> str | None:
    """The scheme of a URL, if neither a provider nor ``attach`` has given Airflow a file system for it."""
    scheme, found, _ = str(path).partition("://") if isinstance(path, (str, AnyPath)) else ("", "", "")
    if not found:
        return None
    from airflow.sdk import ObjectStoragePath
    from airflow.sdk.io import has_fs

    if has_fs(scheme):
        return None
    try:
        _ = ObjectStoragePath(path).fs if isinstance(path, str) else path.fs
    except ValueError:
        return scheme
    return None


def site_file(option: str, folder: str, ti: Any, ending: str) -> AnyPath:
    """The file of a task instance in a folder of the site.

    :param option: name of the site's option, for messages
    :param folder: its value
    :raises SourceError: if the folder is not a path
    """
    mapped = ti.map_index is not None and ti.map_index >= 0
    parts = [ti.dag_id, ti.run_id, ti.task_id, *([ti.map_index] if mapped else [])]
    return path_of(
        f"{folder.rstrip('/')}/{_file_name(parts)}.{ending}", f"{option} in section [crm] of Airflow's configuration"
    )


LONGEST_NAME = 200
"""Bytes of a file's name before its ending: file systems allow 255, and the files beside it have longer endings."""


def _file_name(parts: Sequence[object]) -> str:
    """A name of these parts; one that is too long ends with a hash of them instead."""
    name = "__".join(re.sub(r"[^\w.+-]", "_", str(part)) for part in parts)
    if len(name.encode()) <= LONGEST_NAME:
        return name
    identity = hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()[:12]
    return f"{name.encode()[: LONGEST_NAME - 14].decode(errors='ignore')}__{identity}"


_END = "\ue000"
"""A character appended to text, so that native rendering does not evaluate it as a Python value."""

_FROM_TEXT = (bool, int, float, complex, bytes, tuple, set, type(None), type(...))
"""Types that native rendering converts text to, besides lists and mappings: of ``1234,50`` it makes a tuple."""


class MissingValue(str):
    """The text ``None`` of a template whose value was missing."""

    __slots__ = ()


class NotFinite(str):
    """The name of a number that JSON cannot represent (``nan``, ``inf``): Airflow cannot store the number itself."""

    __slots__ = ()


def storable(value: Any) -> Any:
    """A rendered field, with :class:`NotFinite` for such numbers: :func:`check_rendered` rejects it.

    Airflow would fail when it stores the field, before the task runs, without naming it.
    """
    if isinstance(value, float) and not math.isfinite(value):
        return NotFinite(value)
    if type(value) is dict:
        return {name: storable(item) for name, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(storable, value))
    return value


class RenderedFieldsMixin:
    """Renders the template fields of an operator or sensor.

    - Text without a template marker stays unchanged, also with native rendering (``"2024"``, ``"+5531999999999"``).
    - Text stays text. Native rendering would turn the text ``"+5531999999999"`` of a variable into the number
      5531999999999. Numbers, booleans, lists and mappings keep their types. Text that reads as a list or mapping
      becomes one.
    - ``None`` becomes :class:`MissingValue`, which :func:`check_rendered` rejects. Within a natively rendered list or
      mapping it stays ``None``, because JSON can express it there.
    """

    template_ext: Any
    _rendering = False
    """Whether a field is being rendered: then this call renders a part of it."""

    def render_template(
        self,
        content: Any,
        context: Context,
        jinja_env: jinja2.Environment | None = None,
        seen_oids: set[int] | None = None,
    ) -> Any:
        """Render a template by the rules of this class."""
        if isinstance(content, str):
            env = jinja_env or self.get_template_env()  # type: ignore[attr-defined]
            found = self._render_text(content, context, env, seen_oids)
            return MissingValue("None") if found is None and not self._rendering else found
        if self._rendering:
            return super().render_template(content, context, jinja_env, seen_oids)  # type: ignore[misc]
        self._rendering = True
        try:
            found = super().render_template(content, context, jinja_env, seen_oids)  # type: ignore[misc]
        finally:
            self._rendering = False
        return MissingValue("None") if found is None and content is not None else storable(found)

    def _render_text(self, content: str, context: Context, env: jinja2.Environment, seen_oids: set[int] | None) -> Any:
        is_file = bool(self.template_ext) and content.endswith(tuple(self.template_ext))
        if not is_file and not _has_marker(content, env):
            return content
        outputs: list[Any] = []
        noting = env if env.finalize is not None else env.overlay(finalize=_noting(outputs))
        found = super().render_template(content, context, noting, seen_oids)  # type: ignore[misc]
        if isinstance(found, str) and not _has_quote(outputs):
            return MissingValue(found) if found == "None" and outputs[-1:] == [None] else found
        if is_file or not isinstance(found, (str, *_FROM_TEXT)):
            return found
        text = super().render_template(f"{content}{_END}", context, env, seen_oids)[:-1]  # type: ignore[misc]
        if content.endswith("\n") and not env.keep_trailing_newline:
            text = text.removesuffix("\n")  # which Jinja removes only at the end
        is_value = len(outputs) == 1 and type(outputs[0]) is type(found) is not str and str(outputs[0]) == text
        return found if is_value else text


def is_mapped(task: Any) -> bool:
    """Whether a task was expanded from a mapped one. Its values are checked at run time, so that the policy decides."""
    return bool(getattr(task, "_BaseOperator__from_mapped", False))


def check_rendered(task: Any) -> None:
    """Reject fields whose template or upstream task had no value, and numbers that JSON cannot represent.

    :raises CrmInvalidValueError: naming the field
    """
    for name in task.template_fields:
        for place, value in _unusable(getattr(task, name, None), name):
            if isinstance(value, NotFinite):
                raise CrmInvalidValueError(f"{place} is not a finite number; correct it, or leave it empty")
            raise rendered_to_none(place)


def rendered_to_none(field: str) -> CrmInvalidValueError:
    """The error of a field that was rendered to ``None``."""
    return CrmInvalidValueError(
        f"{field} was rendered to None: the variable, parameter or result of a task that it refers to has no value; "
        "give it one, or a default in the template"
    )


def _unusable(value: Any, place: str) -> Iterator[tuple[str, str]]:
    """The places of values that were rendered to None or are not finite numbers, and these values."""
    if isinstance(value, (MissingValue, NotFinite)):
        yield place, value
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from _unusable(item, f"{place}[{name!r}]")
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            yield from _unusable(item, f"{place}[{number}]")


def _has_quote(outputs: Sequence[Any]) -> bool:
    """Whether an output has a quotation mark: native rendering makes ``Ada`` of the text ``"Ada"``."""
    return any(isinstance(each, str) and ("'" in each or '"' in each) for each in outputs)


def _noting(outputs: list[Any]) -> Callable[[Any], Any]:
    def note(value: Any) -> Any:
        outputs.append(value)
        return value

    return note


def _has_marker(text: str, env: jinja2.Environment) -> bool:
    marks = (env.variable_start_string, env.block_start_string, env.comment_start_string)
    lines = (env.line_statement_prefix, env.line_comment_prefix)
    return any(mark in text for mark in (*marks, *lines) if mark)
