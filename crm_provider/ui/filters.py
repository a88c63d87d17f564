"""Filters, search and page number in the address of a page. Invalid values are ignored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from urllib.parse import urlencode

from crm_provider.ui.endings import Tone

LONGEST = 250
"""Maximum characters of a filter: Airflow's ids are not longer."""

MOST_PAGES = 10_000

PERIODS: Mapping[str, str] = {"1": "Last 24 hours", "7": "Last 7 days", "30": "Last 30 days", "90": "Last 90 days"}
"""Days -> label."""

STATES: Mapping[str, str] = {
    Tone.FAILED.value: "Failed",
    Tone.REJECTS.value: "Success with rejects",
    Tone.RUNNING.value: "Running or waiting",
    Tone.SUCCESS.value: "Success",
    Tone.SKIPPED.value: "Skipped",
}
"""Filter -> label."""


@dataclass(frozen=True, kw_only=True)
class Filters:
    """The filters of a list.

    :param q: part of a DAG's, task's or connection's name, or of a run's id
    :param state: one of :data:`STATES`
    :param days: one of :data:`PERIODS`
    """

    q: str = ""
    connection: str = ""
    dag: str = ""
    state: str = ""
    days: str = ""
    page: int = 1

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Filters:
        """The filters in the address of a page."""
        texts = {name: query.get(name, "").strip()[:LONGEST] for name in ("q", "connection", "dag", "state", "days")}
        if texts["state"] not in STATES:
            texts["state"] = ""
        if texts["days"] not in PERIODS:
            texts["days"] = ""
        return cls(**texts, page=_page(query.get("page", "")))

    def since(self, now: datetime) -> datetime | None:
        """The beginning of the period; None without a period."""
        return now - timedelta(days=int(self.days)) if self.days else None

    @property
    def is_set(self) -> bool:
        """Whether any filter is set."""
        return any((self.q, self.connection, self.dag, self.state, self.days))

    def query(self, **changes: str | int) -> str:
        """The filters as part of an address, with changes."""
        found = {**{name: getattr(self, name) for name in self.__dataclass_fields__}, **changes}
        if found["page"] == 1:
            del found["page"]
        return urlencode({name: value for name, value in found.items() if value})


@dataclass(frozen=True, kw_only=True)
class Paging:
    """One page among several.

    :param total: entries on all pages
    :param size: entries on one page
    """

    page: int
    total: int
    size: int

    @property
    def pages(self) -> int:
        return max((self.total + self.size - 1) // self.size, 1)

    @property
    def first(self) -> int:
        return (self.page - 1) * self.size + 1

    @property
    def last(self) -> int:
        return min(self.page * self.size, self.total)


def _page(text: str) -> int:
    return min(max(int(text), 1), MOST_PAGES) if text.isascii() and text.isdecimal() and len(text) < 7 else 1
