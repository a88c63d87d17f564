"""Checks the stored values of syncs: results, errors, checkpoints, the rendered connection.

A task of any author can write any value under these names, and everyone sees the page. So a value is read as plain
JSON, its size is limited, and each part that the page uses is checked for type and range. Pure functions.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from crm_provider.errors import ERROR_CLASSES
from crm_provider.load.rejects.samples import MOST_SAMPLES
from crm_provider.load.rows import Outcome
from crm_provider.load.state.checkpoint import Checkpoint

LARGEST = 256 * 1024
"""Maximum characters of a JSON text; results and checkpoints of loads have a few thousand."""

COUNTS_UPTO = 2**53
"""Upper bound of rows and calls: every JSON reader keeps smaller integers exactly."""

SECONDS_UPTO = 100 * 365 * 86400.0
"""Upper bound of durations."""

LONGEST_NAME = 250
"""Maximum characters of a connection id (Airflow's own limit) or an error type."""

OUTCOMES = (*(outcome.value for outcome in Outcome), "read", "left")
"""Outcomes of rows in a result, in the order of the bar; the last one is not an outcome yet."""

MOST_LINES, MOST_FACTS, LONGEST_TEXT = 100, 12, 4096
"""Maximum lines of a policy, further figures of a result, and characters of a text."""


_HALF = re.compile("[\ud800-\udfff]")
"""A lone surrogate, which cannot be encoded."""


class InvalidStoredValue(ValueError):
    """A stored value does not have the type, size or range that a load writes."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """The result of a load or an extract, checked.

    :param kind: what was loaded, if the operator loads several kinds
    :param counts: outcome -> rows
    :param retryable: rejected rows that may succeed as they are
    :param errors: error type -> rows
    :param problems: problem found before the first call -> rows
    :param budget_used: share of the key's rate
    :param plan: parts of the plan: name, words, why, calls, seconds
    :param ending: how it ended, in words
    :param samples: of rejected rows, each with row, place, type and message
    :param resend: the task that sends the rejected rows again, as Python
    :param policy: the error policy: operator, on_error, site
    :param paths: name in the result -> path
    :param would_fail: whether a dry run has shown that a real run would fail
    :param facts: further figures of the kind, which the page shows as they are
    """

    kind: str | None = None
    rows: int
    counts: Mapping[str, int]
    retryable: int = 0
    errors: Mapping[str, int] = field(default_factory=dict)
    problems: Mapping[str, int] = field(default_factory=dict)
    calls: int | None
    calls_saved: int | None = None
    throttled: int | None = None
    seconds: float | None = None
    budget_used: float | None = None
    plan: Mapping[str, Any] = field(default_factory=dict)
    dry_run: bool
    would_fail: bool = False
    conn_id: str | None
    paths: Mapping[str, str] = field(default_factory=dict)
    ending: str
    samples: Sequence[Mapping[str, Any]] = ()
    resend: str | None = None
    policy: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, int | float | str] = field(default_factory=dict)

    @property
    def rejected(self) -> int:
        return self.counts.get("rejected", 0)

    @property
    def left(self) -> int:
        return self.counts.get("left", 0)


@dataclass(frozen=True, kw_only=True)
class Failure:
    """The error that has ended a task, checked.

    :param origin: which line of the error policy decided; empty if none did
    """

    type: str
    message: str
    advice: str = ""
    origin: str = ""
    request_id: str = ""


def result_of(text: str, *, brief: bool = False) -> Result | None:
    """The result in an XCom; None if the XCom does not hold one, for example with a custom XCom backend.

    :param text: JSON, as in the database
    :param brief: only what a list of runs shows
    :raises InvalidStoredValue: the XCom holds an object that is not the result of a load or an extract
    """
    data = json_of(text)
    if not isinstance(data, Mapping):
        return None
    known: dict[str, Any] = {
        "rows": _rows(data),
        "counts": _counts(data),
        "calls": _part(data, "calls", is_count),
        "dry_run": _part(data, "dry_run", _is_bool) or False,
        "would_fail": _part(data, "would_fail", _is_bool) or False,
        "conn_id": _part(data, "crm_conn_id", _is_name) or None,
        "ending": _part(data, "ending", _is_long_text) or "",
        "plan": _plan(_part(data, "plan", _is_object) or {}),
    }
    if brief:
        return Result(**known)
    return Result(
        **known,
        kind=_part(data, "kind", _is_name),
        retryable=_part(data, "retryable", is_count) or 0,
        errors=_part(data, "errors", _are_named_counts) or {},
        problems=_part(data, "problems", _are_counts) or {},
        calls_saved=_part(data, "calls_saved", is_count),
        throttled=_part(data, "throttled", is_count),
        seconds=_part(data, "seconds", _is_duration),
        budget_used=_part(data, "budget_used", _is_share),
        paths=_present(data, _paths_in(data), _is_long_text),
        samples=[_sample(sample) for sample in _part(data, "samples", _are_samples) or ()],
        resend=_part(data, "resend", _is_long_text),
        policy=_policy(_part(data, "error_policy", _is_object) or {}),
        facts=_further(data),
    )


def failure_of(text: str) -> Failure:
    """The error in the XComs ``crm_error`` and ``crm_reason``.

    :param text: JSON, as in the database
    :raises InvalidStoredValue: it is not such an error
    """
    data = json_of(text)
    if not isinstance(data, Mapping):
        raise InvalidStoredValue("it is not an object")
    return Failure(
        type=_part(data, "type", _is_name) or _part(data, "error", _is_name) or "",
        message=_part(data, "message", _is_long_text) or "",
        advice=_advice(data),
        origin=_part(data, "origin", _is_name) or "",
        request_id=_part(data, "request_id", _is_name) or "",
    )


def _advice(data: Mapping[str, Any]) -> str:
    """What to do; empty if the message of this class of error already says it, as in :attr:`CrmError.advice`."""
    known = ERROR_CLASSES.get(_part(data, "error", _is_name) or "")
    if known is not None and known.message_has_advice:
        return ""
    return _part(data, "suggested_action", _is_long_text) or ""


def checkpoint_of(text: str) -> Checkpoint:
    """The checkpoint in the state of a task.

    :param text: JSON, as in the database
    :raises InvalidStoredValue: it is not a checkpoint of a load
    """
    try:
        checkpoint = Checkpoint.from_data(json_of(text))
    except ValueError as error:
        raise InvalidStoredValue("it is not a checkpoint of a load") from error
    if not _is_duration(checkpoint.seconds) or not _are_named_counts(checkpoint.errors):
        raise InvalidStoredValue("the checkpoint has invalid parts")
    _present(checkpoint.notes, ("rows", "calls_left"), is_count)
    return checkpoint


def conn_id_of(text: str | None) -> str | None:
    """The connection among the rendered fields of a task; None if they do not name one.

    :param text: JSON, as in the database
    """
    try:
        fields = json_of(text) if text else None
    except InvalidStoredValue:
        return None
    found = fields.get("crm_conn_id") if isinstance(fields, Mapping) else None
    return (found or None) if _is_name(found) else None


def json_of(text: str) -> Any:
    """A value as plain JSON: no object is ever built from it.

    :raises InvalidStoredValue: it is too large, nested too deeply, or not JSON
    """
    if len(text) > LARGEST:
        raise InvalidStoredValue(f"it has more than {LARGEST} characters")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # a number of more than 4,300 digits is a ValueError
        raise InvalidStoredValue("it is not valid JSON") from error


# -- parts --------------------------------------------------------------------------------------------------


def _part(data: Mapping[str, Any], name: str, fits: Callable[[Any], bool]) -> Any:
    """An optional part, which may also be null."""
    value = data.get(name)
    if value is not None and not fits(value):
        raise InvalidStoredValue(f"{name} does not have the type or range of a load's result")
    return value


def _present(data: Mapping[str, Any], names: tuple[str, ...], fits: Callable[[Any], bool]) -> dict[str, Any]:
    """The parts that are present."""
    return {name: value for name in names if (value := _part(data, name, fits)) is not None}


def _rows(data: Mapping[str, Any]) -> int:
    """Rows of a load, or records of an extract."""
    for name in ("rows", "records"):
        value = _part(data, name, is_count)
        if value is not None:
            return int(value)
    raise InvalidStoredValue("rows is missing")


def _counts(data: Mapping[str, Any]) -> dict[str, int]:
    """Rows by outcome; a result without outcomes counts rows as read."""
    return _present(data, OUTCOMES, is_count) or {"read": _rows(data)}


def _plan(data: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **_present(data, ("name",), _is_name),
        **_present(data, ("words", "why"), _is_long_text),
        **_present(data, ("calls",), is_count),
        **_present(data, ("seconds",), _is_duration),
    }


def _policy(data: Mapping[str, Any]) -> dict[str, Any]:
    return {**_present(data, ("operator",), _is_name), **_present(data, ("on_error", "site"), _are_lines)}


def _sample(data: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "row": _part(data, "row", is_count),
        "type": _part(data, "type", _is_name) or "",
        **{name: _part(data, name, _is_long_text) or "" for name in ("place", "message")},
    }


_KNOWN = frozenset(OUTCOMES) | {
    "rows", "records", "calls", "calls_saved", "throttled", "seconds", "budget_used", "resumed_at", "unsure",
    "retryable",
}  # fmt: skip


def _further(data: Mapping[str, Any]) -> dict[str, int | float | str]:
    """Figures of some kinds only, up to a maximum, and the name of a table."""
    names = [name for name in data if name not in _KNOWN and _is_name(name) and _is_figure(data[name])]
    return {**_present(data, ("table",), _is_name), **{name: data[name] for name in names[:MOST_FACTS]}}


def _paths_in(data: Mapping[str, Any]) -> tuple[str, ...]:
    names = [name for name in data if name == "path" or name.endswith("_path")]
    return tuple(name for name in names if _is_name(name))[:MOST_FACTS]


def is_count(value: Any) -> TypeGuard[int]:
    """Whether it is a number of rows or calls."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < COUNTS_UPTO


def _is_duration(value: Any) -> bool:
    return _is_number(value) and 0 <= value < SECONDS_UPTO


def _is_share(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= 100


def _is_number(value: Any) -> TypeGuard[float]:
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool)


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def _is_object(value: Any) -> bool:
    return isinstance(value, Mapping)


def _is_text(value: Any, longest: int) -> bool:
    return isinstance(value, str) and len(value) <= longest and (value.isascii() or not _HALF.search(value))


def _is_name(value: Any) -> bool:
    return _is_text(value, LONGEST_NAME)


def _is_long_text(value: Any) -> bool:
    return _is_text(value, LONGEST_TEXT)


def _is_figure(value: Any) -> bool:
    return is_count(value) or (isinstance(value, float) and _is_duration(value))


def _are_samples(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= MOST_SAMPLES and all(map(_is_object, value))


def _are_lines(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and len(value) <= MOST_LINES
        and all(_is_name(key) and _is_name(action) for key, action in value.items())
    )


def _are_counts(value: Any) -> bool:
    return isinstance(value, Mapping) and all(_is_text(name, LARGEST) and is_count(n) for name, n in value.items())


def _are_named_counts(value: Any) -> bool:
    return _are_counts(value) and all(map(_is_name, value))
