"""The options of a load, checked when the DAG is parsed and when the task runs.

Arguments whose values are known only when the task runs are checked then.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, ClassVar, Literal, get_args

from crm_provider.client import validation
from crm_provider.client.validation import several
from crm_provider.errors import CrmInvalidValueError
from crm_provider.load.rows import WRITTEN, Outcome, SourceError
from crm_provider.values.suggest import unknown_value

Mode = Literal["upsert", "create", "update"]
PlanName = Literal["auto", "learned", "compare"]
Duplicates = Literal["last", "first", "reject"]
OnInvalid = Literal["reject", "stop"]

ERRORS_IN_A_ROW = 10
"""Consecutive rows that may fail because of the server; each stands for a call that was tried several times."""

NO_PLAN = "none"
"""The name in place of a plan's, if a load ended before it had one."""

PLAN_WORDS: Mapping[str, str] = {
    NO_PLAN: "The load stopped before a plan was made.",
    "nothing": "No row needs to be sent.",
    "learned": "Create or update each contact, beginning with the call that the rows so far suggest.",
    "compare": "Read all contacts of the CRM first, then send only the rows that differ.",
    "create": "Create each contact; contacts that exist stay as they are.",
    "update": "Update each contact; rows without a contact in the CRM are rejected.",
}
"""What each plan does."""

TAKEN_ROW: Mapping[Duplicates, str] = {"last": "a later row", "first": "an earlier row", "reject": "another row"}
"""Which of several rows for one record is sent in place of the others, for people."""


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """How to load; each kind of record has a subclass, which adds its own options and words.

    :param mode: what is written, see the subclass
    :param plan: ``auto`` takes the plan with the fewest calls; ``compare`` reads all records of the CRM first and sends
        only what differs
    :param duplicates: which of several rows for one record is sent: the ``last``, the ``first``, or none (``reject``)
    :param on_invalid: ``reject`` the rows that cannot be sent and send the others, or ``stop`` before the first write
    :param max_rejects: rejected rows with which the load still counts as done: a number or a share such as ``"1%"``
    :param errors_in_a_row: consecutive rows that fail because of the server before the run ends
    :param dry_run: check and plan, write nothing
    :param skips_invalid: whether rows that are not valid are skipped, because ``on_error`` says so
    :raises SourceError: naming the option, the problem and the choices
    """

    records: ClassVar[str] = "records"
    """The CRM's name for what is loaded."""
    shared: ClassVar[str] = "key"
    """What several rows for one record have in common."""
    modes: ClassVar[tuple[str, ...]] = ()
    plans: ClassVar[tuple[str, ...]] = ("auto", "compare")
    outcomes: ClassVar[tuple[Outcome, ...]] = ()
    """How a row can end."""
    meanings: ClassVar[Mapping[Outcome, str]] = {}
    """The meaning of outcomes that differ between kinds of records."""
    plan_words: ClassVar[Mapping[str, str]] = {}
    """The meaning of plans that differ from those for contacts."""
    title: ClassVar[str] = "Load of {source}"
    verb: ClassVar[str] = "load"
    """What the load does to a row."""
    naive: ClassVar[str] = ""
    """The calls that a load without a plan would make, for the report."""

    mode: str = ""
    plan: str = "auto"
    duplicates: Duplicates = "last"
    on_invalid: OnInvalid = "reject"
    max_rejects: int | str = 0
    errors_in_a_row: int = ERRORS_IN_A_ROW
    dry_run: bool = False
    skips_invalid: bool = False

    def __post_init__(self) -> None:
        _one_of("mode", self.mode, self.modes)
        _one_of("plan", self.plan, self.plans)
        for name, choices in _CHOICES.items():
            _one_of(name, getattr(self, name), choices)
        rejects_allowed(self.max_rejects, 0)
        most = self.errors_in_a_row
        if (type(most) is not int or most < 1) and (wrong := validation.not_count(most, "errors_in_a_row")):
            raise SourceError(wrong)

    def check(self) -> None:
        """Check what may come from a template.

        :raises SourceError: naming the option and the problem
        """

    @property
    def decisive(self) -> list[Any]:
        """The options that determine what is sent, besides rows and mapping. The plan does not. JSON-compatible."""
        return [self.mode, self.duplicates]

    @property
    def must_know_own(self) -> bool:
        """Whether a task that starts again must recognise the records that it has made, also after its last row."""
        return False

    @property
    def effect(self) -> dict[str, Any]:
        """The options that determine the effect of a row on its record, for the state file. JSON-compatible."""
        return {}


@dataclass(frozen=True, kw_only=True)
class ContactOptions(LoadOptions):
    """How to load contacts.

    :param mode: ``upsert``, ``create`` (existing contacts are left alone) or ``update`` (new ones are rejected)
    :param plan: ``learned`` upserts in the order that the rows so far suggest
    :param list_ids: segmentation lists that every contact of the load is added to
    :param resubscribe: also add contacts to the lists that the CRM shows as unsubscribed or blacklisted
    """

    records: ClassVar[str] = "contacts"
    shared: ClassVar[str] = "email"
    modes: ClassVar[tuple[str, ...]] = get_args(Mode)
    plans: ClassVar[tuple[str, ...]] = get_args(PlanName)
    outcomes: ClassVar[tuple[Outcome, ...]] = WRITTEN
    naive: ClassVar[str] = "a create-then-update loop"

    mode: str = "upsert"
    list_ids: tuple[str, ...] = ()
    resubscribe: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "list_ids", ids_of(self.list_ids))
        super().__post_init__()
        if self.mode != "upsert" and self.plan == "learned":
            raise SourceError(f"plan={self.plan!r} is for mode='upsert'; mode={self.mode!r} takes 'auto' or 'compare'")

    def check(self) -> None:
        self.checked_lists()

    def checked_lists(self) -> tuple[str, ...]:
        """The ids of the lists; checked late, because they may come from a template.

        :raises SourceError: if one is not a UUID
        """
        try:
            return tuple(validation.uuids(self.list_ids, "list_ids")) if self.list_ids else ()
        except CrmInvalidValueError as wrong:
            raise SourceError(wrong.message) from None

    @property
    def decisive(self) -> list[Any]:
        return [*super().decisive, sorted(self.list_ids), self.resubscribe]

    @property
    def must_know_own(self) -> bool:
        return self.mode == "create" and bool(self.list_ids)

    @property
    def effect(self) -> dict[str, Any]:
        lists: dict[str, Any] = {"list_ids": sorted(self.checked_lists())} if self.list_ids else {}
        # mode create leaves existing contacts alone: their rows are not what the CRM has
        return {**lists, "mode": self.mode} if self.mode == "create" else lists


def ids_of(given: Any) -> tuple[Any, ...]:
    """One id or several as a tuple; None for none. An empty text or mapping of a template remains, to be refused."""
    if isinstance(given, Mapping) and not given:
        return (given,)
    return () if given is None else several(given)


_CHOICES = {
    "duplicates": get_args(Duplicates),
    "on_invalid": get_args(OnInvalid),
}


def _one_of(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise SourceError(unknown_value(name, value, choices))


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
