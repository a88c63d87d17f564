"""What templates make of a task's fields: texts stay texts, and a missing value is an error and no text ``None``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from crm_provider.errors import CrmInvalidValueError

if TYPE_CHECKING:
    import jinja2

    from crm_provider._compat import Context

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
