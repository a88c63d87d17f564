"""The expected state of the CRM after loads, written from the documentation without the package's code.

One stream of loads is the only writer of its contacts, so their state before a load and the rows decide the state
afterwards. If an outcome leaves open whether the row was written, both states are correct.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

State = Mapping[str, Mapping[str, Any]]
"""Contacts or deals by the contact's address."""

WRITTEN = ("created", "updated", "unchanged")


@dataclass(frozen=True)
class Ended:
    """A finished load.

    :param rows: the rows in order: ``email`` and the fields
    :param outcomes: outcomes by row number, from 1
    :param is_clear: whether one try without a fault did all rows, so that each outcome shows the state before. Another
        try sends up to ten rows again, and after a lost response a deletion finds that the contact is gone
    """

    kind: str
    rows: Sequence[Mapping[str, Any]]
    outcomes: Mapping[int, str]
    before: State
    after: State
    list_id: str | None = None
    is_clear: bool = True

    def wrong(self) -> Iterator[str]:
        """All violations, one text each."""
        yield from {"contacts": self._contacts, "create": self._created, "move": self._moved, "delete": self._deleted}[
            self.kind
        ]()

    def _last_rows(self) -> Iterator[tuple[Mapping[str, Any], str]]:
        """The valid row of each contact, the last one with its address, and the outcome of the row."""
        last = {row["email"]: number for number, row in enumerate(self.rows, 1)}
        for email, number in last.items():
            if "@" in email:
                yield self.rows[number - 1], self.outcomes[number]

    def _books(self) -> Iterator[str]:
        last = {row["email"]: number for number, row in enumerate(self.rows, 1)}
        for number, row in enumerate(self.rows, 1):
            outcome = self.outcomes[number]
            if "@" not in row["email"]:
                if outcome != "rejected":
                    yield f"a row without an address ended as {outcome}"
            elif last[row["email"]] != number and outcome != "skipped":
                yield f"the first of two rows for one contact ended as {outcome}"

    # -- contacts ----------------------------------------------------------------------------------------------

    def _contacts(self) -> Iterator[str]:
        yield from self._books()
        expected = {email: dict(contact) for email, contact in self.before.items()}
        for row, outcome in self._last_rows():
            email = row["email"]
            old, new = self.before.get(email), self.after.get(email)
            written = self._written(old, row)
            yield from self._contact_outcome(outcome, old, row)
            if outcome in WRITTEN:
                expected[email] = written
            elif new is not None and _is_between(old, new, written):
                expected[email] = dict(new)
        yield from _differences(expected, self.after)

    def _contact_outcome(self, outcome: str, old: Mapping[str, Any] | None, row: Mapping[str, Any]) -> Iterator[str]:
        if outcome not in (*WRITTEN, "rejected"):
            yield f"a contact ended as {outcome}"
        if outcome == "created" and old is not None:
            yield "a contact that was there ended as created"
        if outcome in ("updated", "unchanged") and old is None and self.is_clear:
            yield f"a contact that was not there ended as {outcome}"
        if outcome == "unchanged" and old is not None and self.is_clear and not _same(old, self._written(old, row)):
            yield "a contact with other values ended as unchanged"

    def _written(self, old: Mapping[str, Any] | None, row: Mapping[str, Any]) -> dict[str, Any]:
        values = {name: value for name, value in row.items() if name != "email"}
        attributes = {**(old or {}).get("attributes", {}), **values}
        lists = set((old or {}).get("lists", ())) | ({self.list_id} if self.list_id else set())
        return {"attributes": attributes, "lists": sorted(lists)}

    # -- deals and deletions -----------------------------------------------------------------------------------

    def _created(self) -> Iterator[str]:
        expected = {email: dict(deal) for email, deal in self.before.items()}
        for row, outcome in self._last_rows():
            made = {"stage": row["stage"], "attributes": {"pb_name": row["pb_name"]}}
            new = self.after.get(row["email"])
            if outcome not in ("created", "rejected"):
                yield f"the creation of a deal ended as {outcome}"
            if outcome != "rejected" or (new is not None and _same(new, made)):
                expected[row["email"]] = made
        yield from _differences(expected, self.after)

    def _moved(self) -> Iterator[str]:
        expected = {email: dict(deal) for email, deal in self.before.items()}
        for row, outcome in self._last_rows():
            old, new = self.before[row["email"]], self.after.get(row["email"])
            if outcome not in ("updated", "unchanged", "rejected"):
                yield f"the move of a deal ended as {outcome}"
            if outcome == "unchanged" and self.is_clear and old["stage"] != row["stage"]:
                yield "a deal in another stage ended as unchanged"
            if outcome != "rejected" or (new is not None and new["stage"] == row["stage"]):
                expected[row["email"]]["stage"] = row["stage"]
        yield from _differences(expected, self.after)

    def _deleted(self) -> Iterator[str]:
        expected = {email: dict(contact) for email, contact in self.before.items()}
        for row, outcome in self._last_rows():
            email = row["email"]
            if outcome not in ("deleted", "unchanged", "rejected"):
                yield f"a deletion ended as {outcome}"
            if outcome == "deleted" and email not in self.before and self.is_clear:
                yield "a contact that was not there ended as deleted"
            if outcome == "unchanged" and email in self.before and self.is_clear:
                yield "the deletion of a contact that was there ended as unchanged"
            if outcome != "rejected" or email not in self.after:
                expected.pop(email, None)
        yield from _differences(expected, self.after)


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether all fields that both have are equal."""
    return all(one[name] == other[name] for name in one.keys() & other.keys() if name != "id")


def _is_between(old: Mapping[str, Any] | None, new: Mapping[str, Any], written: Mapping[str, Any]) -> bool:
    """Whether this can be the state after a row that failed at one of its two writes or lost a response."""
    before = old or {"attributes": written["attributes"], "lists": []}
    return all(new[name] in (before[name], written[name]) for name in ("attributes", "lists"))


def _differences(expected: State, after: State) -> Iterator[str]:
    for missing in expected.keys() - after.keys():
        yield f"{missing} is missing in the CRM"
    for unexpected in after.keys() - expected.keys():
        yield f"{unexpected} is in the CRM"
    for email in expected.keys() & after.keys():
        if not _same(expected[email], after[email]):
            names = [n for n in expected[email] if n != "id" and expected[email][n] != after[email].get(n)]
            yield f"{email} has other values of {', '.join(names)} in the CRM than its outcome says"
