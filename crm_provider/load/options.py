"""The options of a load, checked when the DAG is parsed and when the task runs.

Arguments whose values are known only when the task runs are checked then.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from decimal import Decimal
from typing import Any, Literal, get_args

from crm_provider.client import validation
from crm_provider.client.validation import several
from crm_provider.errors import CrmInvalidValueError
from crm_provider.files.paths import as_path
from crm_provider.load.mapping.mapper import Mapper
from crm_provider.load.outcomes.file import check_outcomes
from crm_provider.load.rejects.file import RejectsFile
from crm_provider.load.rows import SourceError
from crm_provider.values.suggest import hint

Mode = Literal["upsert", "create", "update"]
PlanName = Literal["auto", "learned", "compare"]
Duplicates = Literal["last", "first", "reject"]
OnInvalid = Literal["reject", "stop"]

ERRORS_IN_A_ROW = 10
"""Rows in a row that may fail for the server's sake; each stands for a call that was tried several times."""


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """How to load.

    :param mode: ``upsert``, ``create`` (existing contacts are left alone) or ``update`` (new ones are rejected)
    :param plan: ``auto`` takes the plan with the fewest calls; ``learned`` upserts in the order that the rows so far
        suggest; ``compare`` reads all contacts of the CRM first and sends only what differs
    :param duplicates: which of several rows with one email is sent: the ``last``, the ``first``, or none (``reject``)
    :param on_invalid: ``reject`` the rows that cannot be sent and send the others, or ``stop`` before the first write
    :param max_rejects: rejected rows with which the load still counts as done: a number or a share such as ``"1%"``
    :param list_ids: segmentation lists that every contact of the load is added to
    :param resubscribe: also add contacts to the lists that the CRM shows as unsubscribed or blacklisted
    :param errors_in_a_row: rows in a row that fail for the server's sake before the run ends
    :param dry_run: check and plan, write nothing
    :raises SourceError: naming the option, the problem and the choices
    """

    mode: Mode = "upsert"
    plan: PlanName = "auto"
    duplicates: Duplicates = "last"
    on_invalid: OnInvalid = "reject"
    max_rejects: int | str = 0
    list_ids: tuple[str, ...] = ()
    resubscribe: bool = False
    errors_in_a_row: int = ERRORS_IN_A_ROW
    dry_run: bool = False

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            _one_of(name, getattr(self, name), choices)
        if self.mode != "upsert" and self.plan == "learned":
            raise SourceError(f"plan={self.plan!r} is for mode='upsert'; mode={self.mode!r} takes 'auto' or 'compare'")
        rejects_allowed(self.max_rejects, 0)
        if isinstance(self.errors_in_a_row, bool) or self.errors_in_a_row < 1:
            raise SourceError(f"errors_in_a_row must be at least 1 but is {self.errors_in_a_row!r}")

    def checked_lists(self) -> tuple[str, ...]:
        """The ids of the lists; checked late, for they may come from a template.

        :raises SourceError: if one is no uuid
        """
        try:
            return tuple(validation.uuids(self.list_ids, "list_ids")) if self.list_ids else ()
        except CrmInvalidValueError as wrong:
            raise SourceError(wrong.message) from None


_CHOICES = {
    "mode": get_args(Mode),
    "plan": get_args(PlanName),
    "duplicates": get_args(Duplicates),
    "on_invalid": get_args(OnInvalid),
}


def _one_of(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise SourceError(f"{name}={value!r} is unknown; {hint(value, choices, 'known')}: {', '.join(choices)}")


def rejects_allowed(max_rejects: int | str, rows: int) -> int:
    """How many rows may be rejected.

    >>> rejects_allowed("1%", 2500)
    25

    :raises SourceError: if it is neither a number nor a share
    """
    if isinstance(max_rejects, int) and not isinstance(max_rejects, bool) and max_rejects >= 0:
        return max_rejects
    share = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%\s*", max_rejects) if isinstance(max_rejects, str) else None
    if share and float(share[1]) <= 100:
        return int(rows * Decimal(share[1]) / 100)
    if isinstance(max_rejects, str) and max_rejects.strip().isdecimal():
        return int(max_rejects)
    raise SourceError(f'max_rejects={max_rejects!r} must be a number of rows, or a share such as "1%"')


_OPTIONS = frozenset(field.name for field in fields(LoadOptions))
_DEFAULTS = ("empty", "region", "lowercase_email")


def check_arguments(given: Mapping[str, Any], *, later: Callable[[Any], bool], complete: bool = True) -> None:
    """Check what can be checked.

    :param given: the arguments by name
    :param later: whether a value is known only when the task runs
    :param complete: whether an argument that is not given has its default; not so in a mapped task
    :raises SourceError: naming the argument, the problem and the fix
    """
    known = {name: value for name, value in given.items() if not later(value)}
    options_of(known).checked_lists()
    if "mapping" not in given or "mapping" in known:
        mapper_of(known)
    _check_rejects_path(known.get("rejects_path"))
    check_outcomes(given, known)
    _check_paths_differ(known)
    if complete:
        _check_full_refresh(given)


FILES = ("source", "rejects", "rejects_path", "outcomes_path", "state_path", "report_path", "checkpoint_path")
"""Arguments that name files of a load, each for itself."""


def _check_paths_differ(known: Mapping[str, Any]) -> None:
    named: dict[str, str] = {}
    for argument in FILES:
        path = known.get(argument)
        if isinstance(path, (str, os.PathLike)):
            other = named.setdefault(str(path), argument)
            if other != argument:
                raise SourceError(f"{argument} is the file of {other}, which would be overwritten; give each its own")


def options_of(given: Mapping[str, Any]) -> LoadOptions:
    """The options among the arguments.

    :raises SourceError: if one is not valid, or two contradict each other
    """
    found = {name: value for name, value in given.items() if name in _OPTIONS}
    lists = found.get("list_ids") or ()
    found["list_ids"] = several(lists)
    return LoadOptions(**found)


def mapper_of(given: Mapping[str, Any]) -> Mapper:
    """The mapping among the arguments, ready for use.

    :raises SourceError: if a line of it is not valid
    """
    return Mapper(given.get("mapping"), **{name: given[name] for name in _DEFAULTS if name in given})


def _check_full_refresh(given: Mapping[str, Any]) -> None:
    if given.get("full_refresh") and given.get("state_path") is None:
        raise SourceError("full_refresh=True needs state_path: the file from which the next run knows what was loaded")


def _check_rejects_path(path: Any) -> None:
    if path is None or (isinstance(path, str) and "://" in path):
        return
    try:
        RejectsFile(as_path(path))
    except ValueError as wrong:
        raise SourceError(f"rejects_path: {wrong}") from None
