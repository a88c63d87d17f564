"""Checks what loads have left in Airflow's database: the result, the checkpoint, the rendered connection.

A task of any author can write any value under these names, and everyone sees the page. So a value is read as plain
JSON, its size is limited, and each part that the page uses is checked for type and range. Pure functions.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

from crm_provider.load.rows import Outcome
from crm_provider.load.state.checkpoint import Checkpoint

LARGEST = 256 * 1024
"""Characters of a JSON text that are read; results and checkpoints of loads have a few thousand."""

COUNTS_UPTO = 2**53
"""Rows and calls are below it: whole numbers that every JSON reader keeps."""

SECONDS_UPTO = 100 * 365 * 86400.0
"""Durations are below it."""

LONGEST_NAME, LONGEST_PATH = 250, 4096
"""Characters of a connection id (Airflow's own limit) or an error type, and of a path."""

OUTCOMES = (*(outcome.value for outcome in Outcome), "left")
"""Outcomes of rows in a result, in the order of the bar; the last one is not an outcome yet."""

PATHS = ("rejects_path", "outcomes_path", "report_path", "state_path")


class Unreadable(ValueError):
    """A stored value does not have the type, size or range that a load writes."""


@dataclass(frozen=True, kw_only=True)
class LoadResult:
    """The result of a load, checked.

    :param counts: outcome -> rows
    :param errors: error type -> rows
    :param problems: what was found before the first call -> rows
    :param budget_used: share of the key's rate
    :param paths: name in the result -> path
    """

    rows: int
    counts: Mapping[str, int]
    errors: Mapping[str, int]
    problems: Mapping[str, int]
    calls: int | None
    calls_saved: int | None
    throttled: int | None
    seconds: float | None
    budget_used: float | None
    plan: str | None
    dry_run: bool
    conn_id: str | None
    paths: Mapping[str, str]


def result_of(text: str) -> LoadResult | None:
    """The result in an XCom; None if the XCom does not hold one, for example with a custom XCom backend.

    :param text: JSON, as in the database
    :raises Unreadable: the XCom holds an object that is not the result of a load
    """
    data = json_of(text)
    if not isinstance(data, Mapping):
        return None
    plan = _part(data, "plan", _is_object) or {}
    return LoadResult(
        rows=_needed(data, "rows"),
        counts={"rejected": _needed(data, "rejected"), **_present(data, OUTCOMES, is_count)},
        errors=_part(data, "errors", _are_named_counts) or {},
        problems=_part(data, "problems", _are_counts) or {},
        calls=_part(data, "calls", is_count),
        calls_saved=_part(data, "calls_saved", is_count),
        throttled=_part(data, "throttled", is_count),
        seconds=_part(data, "seconds", _is_duration),
        budget_used=_part(data, "budget_used", _is_share),
        plan=_part(plan, "name", _is_name),
        dry_run=_part(data, "dry_run", _is_bool) or False,
        conn_id=_part(data, "crm_conn_id", _is_name) or None,
        paths=_present(data, PATHS, _is_path),
    )


def checkpoint_of(text: str) -> Checkpoint:
    """The checkpoint in the state of a task.

    :param text: JSON, as in the database
    :raises Unreadable: it is not a checkpoint of a load
    """
    try:
        checkpoint = Checkpoint.from_data(json_of(text))
    except ValueError as error:
        raise Unreadable("it is not a checkpoint of a load") from error
    if not _is_duration(checkpoint.seconds) or not _are_named_counts(checkpoint.errors):
        raise Unreadable("the checkpoint has impossible parts")
    _present(checkpoint.notes, ("rows", "calls_left"), is_count)
    return checkpoint


def conn_id_of(text: str | None) -> str | None:
    """The connection among the rendered fields of a task; None if they do not name one.

    :param text: JSON, as in the database
    """
    try:
        fields = json_of(text) if text else None
    except Unreadable:
        return None
    found = fields.get("crm_conn_id") if isinstance(fields, Mapping) else None
    return (found or None) if _is_name(found) else None


def json_of(text: str) -> Any:
    """A value as plain JSON: no object is ever built from it.

    :raises Unreadable: it is too large, nested too deeply, or not JSON
    """
    if len(text) > LARGEST:
        raise Unreadable(f"it has more than {LARGEST} characters")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # a number of more than 4,300 digits is a ValueError
        raise Unreadable("it is not JSON that can be read") from error


# -- parts --------------------------------------------------------------------------------------------------


def _part(data: Mapping[str, Any], name: str, fits: Callable[[Any], bool]) -> Any:
    """A part that may be missing, or null."""
    value = data.get(name)
    if value is not None and not fits(value):
        raise Unreadable(f"{name} does not have the type or range of a load's result")
    return value


def _present(data: Mapping[str, Any], names: tuple[str, ...], fits: Callable[[Any], bool]) -> dict[str, Any]:
    """Those of the parts that are there."""
    return {name: value for name in names if (value := _part(data, name, fits)) is not None}


def _needed(data: Mapping[str, Any], name: str) -> int:
    value = _part(data, name, is_count)
    if value is None:
        raise Unreadable(f"{name} is missing")
    return int(value)


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
    return isinstance(value, str) and len(value) <= longest and not any("\ud800" <= char <= "\udfff" for char in value)


def _is_name(value: Any) -> bool:
    return _is_text(value, LONGEST_NAME)


def _is_path(value: Any) -> bool:
    return _is_text(value, LONGEST_PATH)


def _are_counts(value: Any) -> bool:
    return isinstance(value, Mapping) and all(_is_text(name, LARGEST) and is_count(n) for name, n in value.items())


def _are_named_counts(value: Any) -> bool:
    return _are_counts(value) and all(map(_is_name, value))
