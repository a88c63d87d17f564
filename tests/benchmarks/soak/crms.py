"""The process of the CRMs: one sandbox per account, and statistics of its requests."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from dataclasses import dataclass
from typing import Any

from crm_provider.sandbox import Sandbox, ids

WINDOWS = (1.0, 10.0, 60.0)
"""Windows in seconds in which requests are counted."""

LISTS = ("Loaded", "Watched", "Watched while killed", "Awaited")
STAGES = ("New", "Qualified", "Proposal", "Won", "Lost")
KEY = "soak-key"
DRAIN = 1.0
"""Seconds between two reads of the journals."""


@dataclass(frozen=True)
class Account:
    """An account of the CRM with the limit of its key."""

    rate: float
    burst: int

    def allowed(self, window: float) -> float:
        """The requests that the limit allows in a window."""
        return self.rate * window + self.burst


class Traffic:
    """Statistics of the requests of one account.

    :ivar most: for each window, the most requests in any such window
    """

    def __init__(self) -> None:
        self.seen = self.total = self.refused = 0
        self.faults: Counter[str] = Counter()
        self.most = dict.fromkeys(WINDOWS, 0)
        self._recent: dict[float, deque[float]] = {window: deque() for window in WINDOWS}

    def add(self, entry: Any) -> None:
        self.seen = entry.seq
        self.total += 1
        if entry.fault is not None:
            self.faults[entry.fault.rpartition("-")[0] or entry.fault] += 1
        elif entry.status == 429:
            self.refused += 1
        for window, recent in self._recent.items():
            recent.append(entry.at)
            while recent[0] <= entry.at - window:
                recent.popleft()
            self.most[window] = max(self.most[window], len(recent))


class Crms:
    """The sandboxes by number. Actions of this class cost no call."""

    def __init__(self, accounts: list[Account], key: str) -> None:
        self._keys = [f"{key}-{number}" for number in range(len(accounts))]
        pairs = list(zip(accounts, self._keys, strict=True))
        self._crms = [
            Sandbox(seed=_seed(), rate=a.rate, burst=a.burst, api_key=k, journal_size=2_000) for a, k in pairs
        ]
        self._traffic = [Traffic() for _ in accounts]
        self._draining = threading.Lock()
        for crm in self._crms:
            crm.start()
        threading.Thread(target=self._drain, daemon=True).start()

    def connections(self, extras: list[dict[str, Any]]) -> list[str]:
        """The Airflow connections."""
        return [crm.connection_json(**extra) for crm, extra in zip(self._crms, extras, strict=True)]

    # -- the state ---------------------------------------------------------------------------------------------

    def contacts(self, account: int, prefix: str) -> dict[str, dict[str, Any]]:
        """Contacts whose address has this prefix: id, attributes and lists by address."""
        store = self._crms[account].store
        with store.lock:
            return {
                email: {"id": c.id, "attributes": dict(c.attributes), "lists": sorted(c.memberships)}
                for email, c in store.contacts.items()
                if email.startswith(prefix)
            }

    def deals(self, account: int, prefix: str) -> dict[str, dict[str, Any]]:
        """The deals of these contacts by address."""
        store = self._crms[account].store
        with store.lock:
            owners = {c.id: email for email, c in store.contacts.items() if email.startswith(prefix)}
            return {
                owners[d.contact_id]: {"id": d.id, "stage": d.stage_id, "attributes": dict(d.attributes)}
                for d in store.deals.values()
                if d.contact_id in owners
            }

    def ids(self, account: int, listing: str) -> list[str]:
        """The ids of a listing."""
        store = self._crms[account].store
        with store.lock:
            return [record.id for record in getattr(store, "contacts" if listing == "contacts" else "deals").values()]

    # -- changes without the provider --------------------------------------------------------------------------

    def create(
        self, account: int, email: str, attributes: dict[str, Any] | None = None, deal: bool = False
    ) -> list[str]:
        """Create a contact, optionally with a deal in stage New, and return the ids."""
        store = self._crms[account].store
        contact = store.create_contact(email, attributes=attributes or {})
        if not deal:
            return [contact.id]
        stage, pipeline = ids.stage_id("Sales", "New"), ids.pipeline_id("Sales")
        return [contact.id, store.create_deal(contact_id=contact.id, pipeline_id=pipeline, stage_id=stage).id]

    def join(self, account: int, email: str, name: str) -> float:
        """Add a contact to a list and return the time."""
        self._crms[account].store.add_to_lists(email, [ids.list_id(name)])
        return time.monotonic()

    def update(self, account: int, email: str, attributes: dict[str, Any]) -> float:
        self._crms[account].store.update_contact(email, attributes)
        return time.monotonic()

    def move(self, account: int, deal_id: str, stage: str) -> float:
        self._crms[account].store.update_deal(deal_id, stage_id=ids.stage_id("Sales", stage))
        return time.monotonic()

    def delete(self, account: int, email: str) -> None:
        self._crms[account].store.delete_contact(email)

    def delete_deals(self, account: int, prefix: str) -> None:
        store = self._crms[account].store
        for deal in self.deals(account, prefix).values():
            store.delete_deal(deal["id"])

    # -- faults and requests -----------------------------------------------------------------------------------

    def add_fault(self, account: int, fields: dict[str, Any]) -> None:
        self._crms[account].add_fault(**fields)

    def clear_faults(self, account: int) -> None:
        self._crms[account].clear_faults()

    def traffic(self, account: int) -> dict[str, Any]:
        """Statistics so far: requests, refusals, faults, the fullest windows, and second creations of deals."""
        self._drain_all()
        traffic, counters = self._traffic[account], self._crms[account].counters()
        return {
            "total": traffic.total,
            "refused": traffic.refused,
            "faults": dict(traffic.faults),
            "most": dict(traffic.most),
            "second_deals": counters.duplicate_deals,
        }

    def _drain(self) -> None:
        while True:
            time.sleep(DRAIN)
            self._drain_all()

    def _drain_all(self) -> None:
        with self._draining:
            for crm, traffic in zip(self._crms, self._traffic, strict=True):
                for entry in crm.journal(since=traffic.seen):
                    traffic.add(entry)


def _seed() -> dict[str, Any]:
    return {
        "pipelines": [{"name": "Sales", "stages": [{"name": name} for name in STAGES]}],
        "lists": [{"name": name} for name in LISTS],
    }
