"""The same faults for every client, and the wrong results in the CRM and in the client's report."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crm_provider.sandbox import Sandbox
from side_by_side.leads import Lead, fill, write_file
from side_by_side.ways import Claims, Way

LATENCY = 0.02


@dataclass(frozen=True, kw_only=True)
class Case:
    """A row and the faults of its calls.

    :param lead: the row; ``before`` is set if the CRM has the contact
    :param faults: rules of the sandbox for the calls of this contact
    :param can_be_loaded: False if the CRM rejects it in any case
    """

    lead: Lead
    what: str = ""
    faults: tuple[Mapping[str, Any], ...] = ()
    can_be_loaded: bool = True


@dataclass(frozen=True, kw_only=True)
class Wrong:
    """Wrong outcomes of a run, in rows.

    :param lost: rows that are not in the CRM and not reported as failed
    :param false_alarms: rows that are in the CRM and reported as failed
    :param miscounted: error of the reported number of created contacts, without lost rows
    :param green: the run succeeds although rows are missing
    :param given_up: rows reported as failed that the CRM would have accepted: not wrong, but manual work
    :param left: rows that the client reports as not processed
    """

    lost: int = 0
    false_alarms: int = 0
    miscounted: int = 0
    green: bool = False
    given_up: int = 0
    left: int = 0
    calls: int = 0
    state: str = ""

    @property
    def outcomes(self) -> int:
        """The number of wrong outcomes."""
        return self.lost + self.false_alarms + self.miscounted + self.green


# -- the scripts ---------------------------------------------------------------------------------------------

ONE_FAULT: Mapping[str, Mapping[str, Any]] = {
    "two refusals with 429": {"effect": "error", "error": "throttled", "count": 2},
    "503, twice": {"effect": "error", "error": "unavailable", "count": 2},
    "500, and nothing was done": {"effect": "error", "error": "INTERNAL_SERVER_ERROR", "count": 1},
    "500 after the write was done": {"effect": "lost_error", "count": 1},
    "the response is lost after the write": {"effect": "lost", "count": 1},
    "the response is cut off after the write": {"effect": "truncate", "variant": "closed", "count": 1},
    "the connection is reset before anything was done": {"effect": "drop", "count": 1},
    "a proxy's page with 502": {"effect": "html", "status": 502, "count": 1},
}
"""Each affects a new contact (its POST) and an existing one (its PUT)."""

PROXY_PAGE: Mapping[str, Any] = {"effect": "html", "status": 200, "count": 1}

NAME = "Ada Example"


def lead(email: str, *, exists: bool, differs: bool = True, phone: str = "+5531999999999") -> Lead:
    before = ("Old" if differs else NAME) if exists else None
    return Lead(email, NAME, phone, "Recife", before)


def healthy(count: int, prefix: str) -> list[Case]:
    """Rows without faults: new, changed and unchanged."""
    return [Case(lead=lead(f"{prefix}{n}@example.com", exists=n % 3 > 0, differs=n % 3 == 1)) for n in range(count)]


def struck() -> list[Case]:
    cases = []
    for n, (what, rule) in enumerate(ONE_FAULT.items()):
        new = {**rule, "method": "POST"}
        cases.append(Case(lead=lead(f"new{n}@example.com", exists=False), what=what, faults=(new,)))
        known = {**rule, "method": "PUT"}
        cases.append(Case(lead=lead(f"known{n}@example.com", exists=True), what=what, faults=(known,)))
    return cases


def hopeless() -> list[Case]:
    """Rows that the CRM rejects."""
    broken = {"effect": "error", "error": "INTERNAL_SERVER_ERROR"}
    return [
        Case(lead=lead("no address", exists=False), what="not an address", can_be_loaded=False),
        Case(lead=lead("@example.com", exists=False), what="half an address", can_be_loaded=False),
        Case(lead=lead("p@example.com", exists=False, phone="n/a"), what="not a phone number", can_be_loaded=False),
        Case(lead=lead("b@example.com", exists=True), what="always 500", faults=(broken,), can_be_loaded=False),
    ]


def odd_addresses() -> list[Case]:
    """Valid addresses that must be encoded in a path."""
    odd = ("o'brien+crm@example.com", "a/b@example.com", "50%off@example.com", "who?#1@example.com")
    return [Case(lead=lead(email, exists=n % 2 == 0), what="an odd address") for n, email in enumerate(odd)]


def mixed(special: Sequence[Case], others: Sequence[Case]) -> list[Case]:
    """The special rows, spread among the others."""
    cases, rest = [], list(others)
    for case in special:
        cases += [*rest[:1], case]
        del rest[:1]
    return [*cases, *rest]


def script() -> list[Case]:
    """All faults in one file, each with its own row."""
    special = [*struck(), *hopeless(), *odd_addresses()]
    return mixed(special, healthy(len(special) + 6, "well"))


def proxy_script() -> list[Case]:
    """A proxy responds to one call with its own page and status 200."""
    page = Case(
        lead=lead("page@example.com", exists=False), what="a proxy's page with 200",
        faults=({**PROXY_PAGE, "method": "POST"},),
    )  # fmt: skip
    return mixed([page], healthy(9, "well"))[::-1]


# -- the run and its evaluation ------------------------------------------------------------------------------


def suffer(way: Way, cases: Sequence[Case], folder: Path) -> Wrong:
    """Run a client's DAG under the faults and evaluate it."""
    with Sandbox(seed="empty", api_key=f"faults-{folder.parent.name}-{folder.name}-{os.getpid()}", magic=False) as crm:
        given = [case.lead for case in cases]
        fill(crm, given)
        for case in cases:
            for rule in case.faults:
                crm.add_fault(**{"latency": LATENCY, **rule, "email": case.lead.email})
        crm.add_fault(effect="latency", latency=LATENCY)
        folder.mkdir()
        conf = {"file": str(write_file(folder / "leads.csv", given)), "rejects": str(folder / "rejects"),
                "state": str(folder / "state")}  # fmt: skip
        (ran,) = way.run(crm, [conf])
        return judge(cases, held(crm), way.claims(ran), calls=crm.counters().total, state=ran.state)


def held(crm: Sandbox) -> dict[str, dict[str, Any]]:
    """Attributes in the CRM by address."""
    return {email: dict(contact.attributes) for email, contact in crm.store.contacts.items()}


@dataclass
class _Rows:
    false_alarms: int = 0
    given_up: int = 0
    created: int = 0
    missing: int = 0
    unsaid: int = 0


def judge(
    cases: Sequence[Case], crm: Mapping[str, Mapping[str, Any]], claims: Claims, *, calls: int = 0, state: str = ""
) -> Wrong:
    """Compare a client's report with the CRM.

    :param crm: attributes in the CRM at the end
    """
    rows = _Rows()
    for case in cases:
        _judge_row(case, crm, claims, rows)
    lost = max(rows.unsaid - claims.left, 0)
    return Wrong(
        lost=lost,
        false_alarms=rows.false_alarms,
        miscounted=max(abs(rows.created - claims.created) - lost, 0),
        green=claims.green and rows.missing > 0,
        given_up=rows.given_up,
        left=claims.left,
        calls=calls,
        state=state,
    )


def _judge_row(case: Case, crm: Mapping[str, Mapping[str, Any]], claims: Claims, rows: _Rows) -> None:
    email, failed = case.lead.email, case.lead.email in claims.failed
    there = crm.get(email) == case.lead.attributes
    rows.created += there and case.lead.before is None
    rows.missing += not there
    if there:
        rows.false_alarms += failed
    elif not failed:
        rows.unsaid += 1
    else:
        rows.given_up += case.can_be_loaded
