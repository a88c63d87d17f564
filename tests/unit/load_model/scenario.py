"""A story of loads as data: a failing test prints it, and a person can write it down."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

LISTS = ("11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-22222222222a")
"""The segmentation lists of the CRM."""


@dataclass(frozen=True)
class Person:
    """A contact that exists in the CRM before the first load.

    :param consent: ``active``, ``unsubscribed``, ``blacklisted`` (by its status), or ``unsubscribedAt`` (by that field)
    :param lists: places in :data:`LISTS`
    """

    email: str
    attributes: dict[str, Any] = field(default_factory=dict)
    consent: str = "active"
    lists: tuple[int, ...] = ()


@dataclass(frozen=True)
class Fault:
    """A fault of some calls.

    :param at: number of the first call, from 0, counted over all tries of the load
    :param kind: a key of ``fake_crm.FAULTS``, ``interrupt``, ``kill before`` or ``kill after``
    :param count: calls in a row; ``key revoked`` and ``quota`` last until the try ends in any case
    """

    at: int
    kind: str
    count: int = 1


@dataclass(frozen=True)
class Beside:
    """A change of the CRM by another client.

    :param what: ``set`` (an attribute), ``create``, ``delete``, ``unsubscribe``, ``blacklist``, ``resubscribe``,
        ``list`` or ``unlist``
    :param at: before this call of the load; None: before the load
    """

    what: str
    email: str
    attributes: dict[str, Any] = field(default_factory=dict)
    at: int | None = None


@dataclass(frozen=True)
class LoadSpec:
    """One load, with all its tries.

    :param lists: places in :data:`LISTS`
    :param kills: checkpoint saves (from 0) around which the process is killed: ``(number, "before" or "after")``
    :param abandon: whether the load is abandoned after its first failed try
    :param resend: whether its rejects are loaded afterwards
    :param resend_faults: the faults of that load
    """

    rows: tuple[dict[str, Any], ...]
    mode: str = "upsert"
    plan: str = "auto"
    empty: str = "skip"
    duplicates: str = "last"
    lists: tuple[int, ...] = ()
    resubscribe: bool = False
    suppression: tuple[str, ...] = ()
    full_refresh: bool = False
    faults: tuple[Fault, ...] = ()
    beside: tuple[Beside, ...] = ()
    kills: tuple[tuple[int, str], ...] = ()
    abandon: bool = False
    resend: bool = False
    resend_faults: tuple[Fault, ...] = ()

    @property
    def list_ids(self) -> tuple[str, ...]:
        return tuple(LISTS[place] for place in self.lists)

    @property
    def is_clean(self) -> bool:
        """Whether no fault occurs, and nobody else changes the CRM during the load."""
        return not (self.faults or self.kills or any(change.at is not None for change in self.beside))


@dataclass(frozen=True)
class Scenario:
    """Consecutive loads.

    :param state: whether they share a state file
    :param skew: seconds that the CRM's clock is ahead of ours
    :param dates: ``both``: the CRM sends its clock's ``Date`` and shows ``createdAt``; or ``no Date``, ``no createdAt``
    :param errors: how the CRM words its errors: a key of ``fake_crm.ERROR_BODIES``
    :param envelope: whether a success is wrapped in ``data``
    """

    people: tuple[Person, ...]
    loads: tuple[LoadSpec, ...]
    state: bool = True
    skew: float = 0.0
    dates: str = "both"
    errors: str = "typed"
    envelope: bool = True
