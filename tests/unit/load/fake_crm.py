"""An in-memory CRM with the client's methods, and helpers for a load."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from crm_provider import errors as e
from crm_provider.client.observers import RequestEvent
from crm_provider.client.pagination import ListedPage, Page
from crm_provider.client.upsert import Creation
from crm_provider.load.rows import Contact, InvalidRow, Problem, Row
from crm_provider.load.workers import RequestStats

Trouble = Callable[[str, str], "e.CrmError | None"]
"""Maps the name of a call and the email to the error that it raises."""


@dataclass
class FakeCrm:
    """Contacts by email, calls by name.

    :param trouble: called before each call; the error that it returns is raised
    """

    contacts: dict[str, dict[str, Any]] = field(default_factory=dict)
    stats: RequestStats = field(default_factory=RequestStats)
    trouble: Trouble = lambda call, email: None
    calls: list[tuple[str, str]] = field(default_factory=list)
    total: int | None = -1
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def add(self, email: str, attributes: Mapping[str, Any] | None = None, **fields: Any) -> None:
        self.contacts[email] = {"id": f"id-{email}", "email": email, "attributes": dict(attributes or {}), **fields}

    def counts(self) -> Counter[str]:
        return Counter(name for name, _ in self.calls)

    def create_or_find(self, email: str, *, attributes: Any = None, origin: Any = None) -> Creation:
        with self._call("create", email):
            if email in self.contacts:
                raise e.CrmContactAlreadyExistsError("Contact already exists.", status=409)
            self.add(email, attributes, origin=origin)
            return Creation({"id": f"id-{email}", "email": email})

    def send_update(self, email: str, *, attributes: Any) -> dict[str, Any]:
        assert attributes
        with self._call("update", email):
            self._there(email)["attributes"].update(attributes)
            return {"id": f"id-{email}", "email": email}

    def get_contact(self, email: str) -> dict[str, Any]:
        with self._call("get", email):
            return self._there(email)

    def add_contact_to_lists(self, email: str, list_ids: Any) -> dict[str, Any]:
        with self._call("add", email):
            lists = self._there(email).setdefault("segmentedListsIds", [])
            lists.extend(id_ for id_ in list_ids if id_ not in lists)
            return {}

    def count_contacts(self) -> int | None:
        with self._call("page", ""):
            return len(self.contacts) if self.total == -1 else self.total

    def list_pages(self, listing: str, *, at_once: int = 1, with_moved: bool = False) -> Iterator[ListedPage]:
        assert listing == "contacts"
        found = list(self.contacts.values())
        for number, start in enumerate(range(0, max(len(found), 1), 10)):
            with self._call("page", ""):
                pass
            items = found[start : start + 10]
            yield ListedPage(number=number, page=Page(items, len(found)), fresh=items)

    def start_of_writes(self) -> None:
        """This CRM sends no clock in its responses."""

    def ping(self) -> None:
        with self._call("ping", ""):
            pass

    def _there(self, email: str) -> dict[str, Any]:
        if email not in self.contacts:
            raise e.CrmContactNotFoundError("Contact not found.", status=404)
        return self.contacts[email]

    def _call(self, name: str, email: str) -> threading.RLock:
        with self._lock:
            self.calls.append((name, email))
            self.stats(
                RequestEvent(method="X", route="/x", status=200, seconds=0.1, waited=0, error_type=None, attempt=1)
            )
            problem = self.trouble(name, email)
        if problem is not None:
            raise problem
        return self._lock


class PlainMapper:
    """Map ``email`` and the attributes unchanged. A row without an ``@`` is invalid."""

    def check_columns(self, columns: tuple[str, ...]) -> None:
        """Accept all columns."""

    def as_data(self) -> Any:
        return {"plain": True}

    def __call__(self, row: Row) -> Contact:
        email = row.values["email"]
        if row.problem or "@" not in email:
            raise InvalidRow(Problem("email", "email", "no email address", "correct it"))
        return Contact(email, {name: value for name, value in row.values.items() if name != "email"})


@dataclass
class Rows:
    """An in-memory source."""

    given: list[dict[str, Any]]
    name: str = "a list"
    columns: tuple[str, ...] | None = None
    read: int = 0

    def rows(self) -> Iterator[Row]:
        self.read += 1
        for number, values in enumerate(self.given, start=1):
            yield Row(number, values)
