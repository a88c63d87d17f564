"""Invariants of every load, whatever goes wrong. Each rule is a function that raises an error with its own text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from .fake_crm import Event
from .model import Wanted, has_values, wanted_of
from .story import Reported

WRITES = frozenset({"create", "update", "add"})
UNWANTED = frozenset({"unsubscribe", "blacklist"})


class Broken(AssertionError):
    """An invariant that does not hold."""


class Facts:
    """A finished load, and the known facts about each of its rows."""

    def __init__(self, reported: Reported) -> None:
        self.reported, self.spec = reported, reported.spec
        self.rows = wanted_of(reported.rows, reported.spec)
        self.sent = {row.key: row for row in self.rows.values() if row.status == "send"}
        self.ours = [event for event in reported.log if event.actor == "us"]
        self.beside = {event.key for event in reported.log if event.actor == "beside"}
        self.made_beside = {e.key for e in reported.log if e.actor == "beside" and e.what == "create"}
        """Contacts created in the same second with the same values as ours: their creator is unknown."""
        self.guards = bool(self.spec.lists) and not self.spec.resubscribe
        self.is_one_try = len(reported.tries) == 1 and not reported.is_resent
        self.faults = any(event.fault for event in reported.log)

    def outcome(self, row: Wanted) -> str:
        return self.reported.outcomes[row.number]

    def decided(self) -> Iterator[tuple[Wanted, str]]:
        """The rows to be sent, each with its outcome."""
        for row in self.sent.values():
            yield row, self.outcome(row)

    def done(self, key: str) -> list[Event]:
        """Our calls about a contact."""
        return [event for event in self.ours if event.key == key and event.what in WRITES and event.effect]

    def is_unclear(self, key: str) -> bool:
        """Whether only the values show that we created a contact: its response was lost, or a try was killed."""
        if self.reported.has_dates:
            return False
        lost = any(e.key == key and e.what == "create" and is_lost(e) for e in self.reported.history)
        return lost or not self.is_one_try

    def touched_by_others(self, key: str) -> bool:
        """Whether another client changed the contact; for resent rejects, since the load that rejected them."""
        since = self.reported.history if self.reported.is_resent else self.reported.log
        return any(event.actor == "beside" and event.key == key for event in since)

    def made(self, key: str) -> bool:
        """Whether this load (or the load of its rejects) created the contact."""
        since = self.reported.history if self.reported.is_resent else self.reported.log
        return any(
            event.actor == "us" and event.what == "create" and event.effect and event.key == key
            and self._of_this_chain(event)
            for event in since
        )  # fmt: skip

    def _of_this_chain(self, event: Event) -> bool:
        found = self.reported.end.get(event.key)
        return found is not None and found.ours and found.chain == self.reported.chain

    def unwanted_at_some_time(self, key: str) -> bool:
        before, after = self.reported.start.get(key), self.reported.end.get(key)
        return any(found is not None and found.unwanted for found in (before, after)) or any(
            event.key == key and (event.unwanted or event.what in UNWANTED) for event in self.reported.history
        )


def is_lost(event: Event) -> bool:
    """Whether it is unknown if a call was processed."""
    return event.fault not in (None, "429", "quota", "refused", "key revoked")


def require(holds: bool, text: str) -> None:
    if not holds:
        raise Broken(text)


# -- counts -------------------------------------------------------------------------------------------------------


def each_row_has_one_outcome(facts: Facts) -> None:
    reported = facts.reported
    require(set(reported.outcomes) == set(reported.rows), "a row has no outcome")
    counts = Counter(reported.outcomes.values())
    require(counts == Counter(reported.ended.counts), f"the rows ended as {dict(counts)}, the summary says otherwise")
    require(
        sum(reported.ended.counts.values()) == reported.ended.rows == len(reported.rows),
        "the counts do not add up to the rows",
    )
    require(reported.ended.left == 0, "rows are not finished")


def rejects_file_holds_the_rejected_rows(facts: Facts) -> None:
    reported = facts.reported
    rejected = {number for number, outcome in reported.outcomes.items() if outcome == "rejected"}
    require(set(reported.rejects) == rejected, f"rejected: {sorted(rejected)}, in the file: {sorted(reported.rejects)}")
    for number, line in reported.rejects.items():
        require(line["values"] == dict(reported.rows[number]), f"row {number} is in the rejects file with other values")


def outcomes_file_holds_every_row_once(facts: Facts) -> None:
    reported = facts.reported
    found = sorted((number, outcome) for number, outcome, _ in reported.written)
    require(found == sorted(reported.outcomes.items()), f"outcomes: {reported.outcomes}, in the file: {found}")
    types = {number: type_ for number, outcome, type_ in reported.written if outcome == "rejected"}
    wanted = {number: line["type"] for number, line in reported.rejects.items()}
    require(types == wanted, f"types in the outcomes file: {types}, of the rejects: {wanted}")


def calls_are_counted(facts: Facts) -> None:
    reported = facts.reported
    require(
        reported.ended.calls == reported.calls, f"calls are {reported.calls}, the summary says {reported.ended.calls}"
    )


def calls_stay_within_the_forecast(facts: Facts) -> None:
    reported = facts.reported
    if facts.is_one_try and facts.spec.is_clean and reported.has_clear_errors:
        require(
            reported.calls <= reported.ended.forecast,
            f"{reported.calls} calls, the forecast was {reported.ended.forecast}",
        )


# -- decisions without a call -------------------------------------------------------------------------------------


def unsent_rows_end_as_documented(facts: Facts) -> None:
    right = {"invalid": "rejected", "ambiguous": "rejected", "duplicate": "skipped", "suppressed": "suppressed"}
    types = {"invalid": "INVALID_VALUE", "ambiguous": "DUPLICATE_ROW"}
    for row in facts.rows.values():
        outcome = facts.outcome(row)
        if row.status in right:
            require(outcome == right[row.status], f"row {row.number} is {row.status} and ended as {outcome}")
        else:
            require(outcome != "skipped", f"row {row.number} was skipped, but no other row has its email")
        if row.status in types:
            found = facts.reported.rejects[row.number]["type"]
            require(found == types[row.status], f"row {row.number} is {row.status} and was rejected as {found}")


def only_the_contacts_of_rows_are_written(facts: Facts) -> None:
    for event in facts.ours:
        if event.what not in WRITES:
            continue
        row = facts.sent.get(event.key)
        require(row is not None, f"the contact of an unsent row was written: {event}")
        assert row is not None
        given = event.body if event.what == "update" else (event.body or {}).get("attributes") or {}
        extra = {} if event.what == "add" else {n: v for n, v in given.items() if n not in row.attributes}
        require(not extra, f"values missing in the row were written: {event}")
        values = {} if event.what == "add" else given
        require(has_values(row.attributes, values), f"the written values differ from the row: {event}")


def nobody_on_the_suppression_list_is_written(facts: Facts) -> None:
    people = {row.key for row in facts.rows.values() if row.status == "suppressed"}
    for event in facts.ours:
        require(event.key not in people or event.what not in WRITES, f"a suppressed person was written: {event}")


# -- consent ------------------------------------------------------------------------------------------------------


def nobody_without_consent_is_listed(facts: Facts) -> None:
    """The guard reads at the time of the write, so only calls about the same contact came in between."""
    if not facts.guards:
        return
    for place, event in enumerate(facts.reported.log):
        if event.actor != "us" or event.what not in ("add", "update") or not (event.effect and event.unwanted):
            continue
        since = _since_it_became_unwanted(facts.reported.log[:place], event.key)
        is_race = since is not None and all(e.key == event.key for e in since if e.actor == "us")
        require(is_race, f"a person who is unsubscribed or blacklisted was written to: {event}")


def _since_it_became_unwanted(log: list[Event], key: str) -> list[Event] | None:
    """The events since then; None if that was before the load."""
    for place in range(len(log) - 1, -1, -1):
        event = log[place]
        if event.actor == "beside" and event.key == key and event.what in UNWANTED:
            return log[place:]
    return None


def suppressed_means_unwanted(facts: Facts) -> None:
    for row, outcome in facts.decided():
        if outcome == "suppressed":
            is_right = facts.guards and facts.unwanted_at_some_time(row.key)
            require(is_right, f"row {row.number} is suppressed, but the person gave consent")
        before = facts.reported.start.get(row.key)
        if _may_be_left_out(facts, row):
            continue
        if facts.guards and before is not None and before.unwanted and row.key not in facts.beside:
            allowed = {"suppressed", "rejected"} | ({"unchanged"} if facts.spec.mode == "create" else set())
            require(outcome in allowed, f"row {row.number} has an unsubscribed contact and ended as {outcome}")


# -- modes --------------------------------------------------------------------------------------------------------


def create_leaves_existing_contacts_unchanged(facts: Facts) -> None:
    if facts.spec.mode != "create":
        return
    for event in facts.ours:
        if event.effect and event.what in ("update", "add"):
            was_there = event.chain is not None and event.chain != facts.reported.chain
            require(
                not was_there or facts.is_unclear(event.key),
                f"mode create changed a contact that existed before the load: {event}",
            )


def create_adds_its_contacts_to_the_lists(facts: Facts) -> None:
    if facts.spec.mode != "create" or not facts.spec.lists:
        return
    for row, outcome in facts.decided():
        is_ours = facts.made(row.key) and not facts.is_unclear(row.key) and row.key not in facts.beside
        if outcome in ("created", "updated", "unchanged") and is_ours:
            missing = set(facts.spec.list_ids) - set(facts.reported.end[row.key].lists)
            require(
                not missing, f"row {row.number} is {outcome}: the load created its contact, which is not in its lists"
            )


def update_creates_nothing(facts: Facts) -> None:
    if facts.spec.mode == "update":
        made = [event for event in facts.ours if event.what == "create"]
        require(not made, f"mode update sent a creation: {made[:1]}")


# -- outcomes and the CRM -----------------------------------------------------------------------------------------


def created_means_created_by_this_load(facts: Facts) -> None:
    for row, outcome in facts.decided():
        if facts.is_unclear(row.key):
            continue
        made = [e for e in facts.ours if e.key == row.key and e.what == "create" and e.effect]
        if outcome == "created":
            was_made = bool(made) or (facts.reported.is_resent and facts.made(row.key)) or row.key in facts.made_beside
            require(was_made, f"row {row.number} counts as created, but this load did not create its contact")
            if row.key not in facts.beside:
                require(
                    row.key in facts.reported.end,
                    f"row {row.number} counts as created, but the CRM has no such contact",
                )
        elif made and facts.is_one_try and outcome not in ("rejected", "suppressed"):
            require(row.key in facts.beside, f"row {row.number} was created and counts as {outcome}")


def updated_means_written(facts: Facts) -> None:
    for row, outcome in facts.decided():
        if facts.is_unclear(row.key):
            continue
        written = facts.done(row.key) or (facts.reported.is_resent and facts.made(row.key))
        if outcome == "updated":
            require(bool(written), f"row {row.number} counts as updated, but nothing was written")
        elif outcome == "unchanged" and facts.is_one_try:
            require(not written, f"row {row.number} counts as unchanged, but it was written")


def crm_agrees_with_the_outcomes(facts: Facts) -> None:
    for row, outcome in facts.decided():
        if outcome not in ("created", "updated", "unchanged") or row.key in facts.beside:
            continue
        if _may_be_left_out(facts, row):
            continue  # see below
        found = facts.reported.end.get(row.key)
        require(found is not None, f"row {row.number} is {outcome}, but the CRM has no such contact")
        assert found is not None
        if facts.spec.mode == "create" and (facts.is_unclear(row.key) or not facts.made(row.key)):
            continue  # unchanged
        require(
            has_values(found.attributes, row.attributes), f"row {row.number} is {outcome}, but the CRM has other values"
        )
        missing = set(facts.spec.list_ids) - set(found.lists)
        require(not missing, f"row {row.number} is {outcome}, but its contact is not in all lists")


def untouched_contacts_are_unchanged(facts: Facts) -> None:
    if facts.reported.is_resent:
        return
    for key, before in facts.reported.start.items():
        if key not in facts.beside and not facts.done(key):
            require(facts.reported.end.get(key) == before, f"{key} changed, but nobody changed it")


def skipped_row_is_in_the_crm(facts: Facts) -> None:
    """No call was made about it, because the state file rightly says that it is loaded."""
    for row, outcome in facts.decided():
        if not _may_be_left_out(facts, row):
            has_looked = any(event.key == row.key or event.what == "page" for event in facts.ours)
            require(outcome != "unchanged" or has_looked, f"row {row.number} is unchanged, but the load read nothing")
            continue
        if _changed_by_others_since_our_last_call(facts, row.key):
            continue
        found = facts.reported.end.get(row.key)
        require(found is not None, f"row {row.number} was skipped as loaded before, but the CRM has no such contact")
        assert found is not None
        if facts.spec.mode == "create" and not found.ours:
            continue
        require(
            facts.spec.mode == "create"
            or (has_values(found.attributes, row.attributes) and set(facts.spec.list_ids) <= set(found.lists)),
            f"row {row.number} was skipped as loaded before, but the CRM has other values or lists",
        )  # fmt: skip


def rows_loaded_before_cost_no_call(facts: Facts) -> None:
    """The same row in two consecutive loads: the second one skips it."""
    reported, last = facts.reported, facts.reported.last
    if last is None or reported.is_resent or not reported.has_state or facts.spec.full_refresh:
        return
    before = Facts(last)
    if not (_effect(last) == _effect(reported) and before.is_one_try and last.spec.is_clean):
        return
    for row, outcome in facts.decided():
        was = before.sent.get(row.key)
        if was is None or before.outcome(was) not in ("created", "updated", "unchanged") or not _is_same_row(was, row):
            continue
        calls = [event for event in facts.ours if event.key == row.key]
        require(
            outcome == "unchanged" and not calls, f"row {row.number} was loaded before, and is {outcome}: {calls[:1]}"
        )


def _effect(reported: Reported) -> tuple[bool, list[int]]:
    """Everything besides its values that decides the effect of a row."""
    return reported.spec.mode == "create", sorted(reported.spec.lists)


def _is_same_row(one: Wanted, other: Wanted) -> bool:
    return one.email == other.email and repr(one.attributes) == repr(other.attributes)


def _may_be_left_out(facts: Facts, row: Wanted) -> bool:
    """Whether the state file may say that the row was loaded before."""
    remembers = facts.reported.has_state and not facts.spec.full_refresh
    return remembers and facts.outcome(row) == "unchanged" and not any(e.key == row.key for e in facts.ours)


def _changed_by_others_since_our_last_call(facts: Facts, key: str) -> bool:
    for event in reversed(facts.reported.history):
        if event.key == key and event.actor == "beside":
            return True
        if event.actor == "us" and event.key == key and event.what in WRITES and event.effect:
            return False
    return False


def rejected_for_a_reason(facts: Facts) -> None:
    for row, outcome in facts.decided():
        if outcome != "rejected":
            absent = facts.spec.mode == "update" and row.key not in facts.reported.start
            require(
                not absent or facts.touched_by_others(row.key),
                f"row {row.number}: mode update, no such contact, and it counts as {outcome}",
            )
            continue
        type_ = facts.reported.rejects[row.number]["type"]
        if type_ in ("CONTACT_NOT_FOUND", "HTTP_404"):
            gone = facts.spec.mode == "update" and row.key not in facts.reported.start
            require(
                gone or facts.touched_by_others(row.key),
                f"row {row.number} was rejected as {type_}, but its contact exists",
            )
        else:
            require(type_ in REJECTS, f"row {row.number} was rejected as {type_}")
            require(facts.faults, f"row {row.number} was rejected as {type_}, but no fault occurred")


REJECTS = frozenset(
    {"INTERNAL_SERVER_ERROR", "SERVICE_UNAVAILABLE", "GATEWAY_TIMEOUT", "BAD_GATEWAY", "CONNECTION", "TIMEOUT"}
)


# -- lost responses -----------------------------------------------------------------------------------------------


def lost_creation_is_read_before_it_is_sent_again(facts: Facts) -> None:
    unknown: dict[str, int] = {}
    for event in facts.ours:
        if event.what == "get":
            unknown.pop(event.key, None)
        if event.what != "create":
            continue
        is_again = unknown.get(event.key) == event.attempt
        require(not is_again, f"a creation with a lost response was sent again without a read: {event}")
        if is_lost(event):
            unknown[event.key] = event.attempt


INVARIANTS: tuple[Callable[[Facts], None], ...] = (
    each_row_has_one_outcome,
    rejects_file_holds_the_rejected_rows,
    outcomes_file_holds_every_row_once,
    unsent_rows_end_as_documented,
    nobody_on_the_suppression_list_is_written,
    only_the_contacts_of_rows_are_written,
    nobody_without_consent_is_listed,
    suppressed_means_unwanted,
    create_leaves_existing_contacts_unchanged,
    create_adds_its_contacts_to_the_lists,
    update_creates_nothing,
    rejected_for_a_reason,
    created_means_created_by_this_load,
    updated_means_written,
    crm_agrees_with_the_outcomes,
    skipped_row_is_in_the_crm,
    rows_loaded_before_cost_no_call,
    untouched_contacts_are_unchanged,
    lost_creation_is_read_before_it_is_sent_again,
    calls_are_counted,
    calls_stay_within_the_forecast,
)
"""All invariants."""


def broken(reported: Reported) -> dict[str, str]:
    """The names of the broken invariants, and the reasons."""
    facts = Facts(reported)
    found = {}
    for invariant in INVARIANTS:
        try:
            invariant(facts)
        except Broken as why:
            found[invariant.__name__] = str(why)
    return found
