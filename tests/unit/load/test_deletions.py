"""Contact deletions: every spelling is deleted, never more than allowed, and a missing contact is no error."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from crm_provider import errors as e
from crm_provider.errors.on_error import Work
from crm_provider.errors.policy import ErrorPolicy
from crm_provider.load.job import LoadJob
from crm_provider.load.kinds.deletions import DELETIONS
from crm_provider.load.rejects.file import RejectsFile
from crm_provider.load.report import LoadStopped, LoadUnsaved, Summary
from crm_provider.load.rows import Outcome, SourceError
from crm_provider.load.sources.source import open_source
from crm_provider.load.state.checkpoint import Checkpoint, Checkpoints, FileCheckpoints
from crm_provider.load.workers import LEAST, RequestStats

SPELLINGS = ["ada@x.org", "Ada@X.org", "ADA@x.org"]
OTHERS = ["bob@x.org", "eve@x.org"]


class FakePeople:
    """An in-memory CRM of contacts that distinguishes upper and lower case."""

    def __init__(self, *emails: str) -> None:
        self.emails = list(emails)
        self.calls: list[str] = []
        self.odd = False
        self.vanish: list[list[str]] = []
        self.moved = ""
        self.trouble: dict[str, e.CrmError] = {}

    def count_contacts(self) -> int:
        return len(self.emails)

    def list_pages(self, listing: str, *, at_once: int, with_moved: bool) -> Iterator[Any]:
        self.calls.append(listing)
        shown, total = self.emails[:], len(self.emails) + 1
        for gone in self.vanish.pop(0) if self.vanish else ():
            self.emails.remove(gone)
            shown = [email for email in shown if email not in (gone, self.moved)]
        yield SimpleNamespace(fresh=[{"email": email} for email in shown], page=SimpleNamespace(total=total))
        yield SimpleNamespace(
            fresh=[{"email": None}, {"email": ""}, {"email": 7}, {}], page=SimpleNamespace(total=len(self.emails) + 1)
        )
        if self.odd:
            raise e.CrmProtocolError("the listing ends early")

    def delete_listed(self, email: str) -> None:
        self.calls.append("delete")
        if email in self.trouble:
            raise self.trouble.pop(email)
        if email not in self.emails:
            raise e.CrmContactNotFoundError("Contact not found.", status=404)
        self.emails.remove(email)

    def ping(self) -> None:
        """No trouble."""


def erase(crm: FakePeople, *emails: str, rows: list[dict[str, str]] | None = None, **given: Any) -> Summary:
    given = {"max_deletes": 10, **given}
    on_error = given.pop("on_error", {})
    job = {name: given.pop(name) for name in ("checkpoints", "epoch", "rejects") if name in given}
    return LoadJob(
        source=open_source(rows or [{"email": email, "note": "x"} for email in emails]),
        kind=DELETIONS,
        mapper=DELETIONS.mapper_of(given),
        client=crm,  # type: ignore[arg-type]
        stats=RequestStats(),
        options=DELETIONS.options_of(given),
        policy=ErrorPolicy(on_error, work=Work.LOAD, operator="CrmDeleteContactsOperator"),
        **job,
    ).run()


def counts(summary: Summary) -> dict[str, int]:
    return {outcome.value: count for outcome, count in summary.counts.items() if count}


def test_contacts_shifted_by_deletions_are_not_missed() -> None:
    crm = FakePeople("ada@x.org", *OTHERS, "ann@x.org")
    crm.vanish, crm.moved = [["bob@x.org"]], "ada@x.org"
    assert counts(erase(crm, "ada@x.org")) == {"deleted": 1}
    assert crm.emails == ["eve@x.org", "ann@x.org"]
    assert crm.calls == ["contacts", "contacts", "delete"]


def test_listing_that_keeps_shrinking_ends_the_run() -> None:
    crm = FakePeople("ada@x.org", *OTHERS, "ann@x.org")
    crm.vanish, crm.moved = [["bob@x.org"], ["eve@x.org"], ["ann@x.org"]], "ada@x.org"
    with pytest.raises(LoadStopped) as stopped:
        erase(crm, "ada@x.org")
    assert stopped.value.error.message == (
        "contacts were deleted during each of the 3 reads, so one may have been missed; nothing was "
        "deleted. Run this when nothing else deletes contacts"
    )
    assert (stopped.value.error.method, stopped.value.error.path) == ("GET", "/contacts")
    assert (crm.emails, crm.calls) == (["ada@x.org"], ["contacts"] * 3)


def test_every_spelling_of_an_address_is_deleted_and_nobody_else() -> None:
    crm = FakePeople(*SPELLINGS, *OTHERS)
    summary = erase(crm, "  Ada <ADA@X.ORG> ", "gone@x.org")
    assert crm.emails == OTHERS
    assert counts(summary) == {"deleted": 1, "unchanged": 1}
    assert crm.calls == ["contacts", *["delete"] * 3]
    assert (summary.plan, summary.plan_calls) == ("compare", 1 + 1 + 2)
    assert summary.as_dict()["deleted"] == 1


def test_exact_address_needs_no_listing() -> None:
    crm = FakePeople(*SPELLINGS)
    assert counts(erase(crm, "ada@x.org", "gone@x.org", every_spelling=False)) == {"deleted": 1, "unchanged": 1}
    assert crm.emails == SPELLINGS[1:]
    assert crm.calls == ["delete", "delete"]


@pytest.mark.parametrize("every_spelling", [True, False])
def test_nothing_is_deleted_above_the_limit(every_spelling: bool) -> None:
    crm = FakePeople(*SPELLINGS, *OTHERS)
    with pytest.raises(
        SourceError, match=r"contacts would be deleted, but max_deletes=1 allows 1; nothing was deleted"
    ):
        erase(crm, "ada@x.org", "bob@x.org", max_deletes=1, every_spelling=every_spelling)
    assert "delete" not in crm.calls


def half_erased(checkpoints: Checkpoints, **given: Any) -> FakePeople:
    """A CRM after a try that deleted two of three spellings of Ada before its API key was refused."""
    crm = FakePeople(*SPELLINGS, *OTHERS)
    crm.trouble[sorted(SPELLINGS)[2]] = e.CrmForbiddenError("no", status=403)
    with pytest.raises(LoadStopped):
        erase(crm, "ada@x.org", max_deletes=3, checkpoints=checkpoints, epoch=1, **given)
    assert len(crm.emails) == 3
    return crm


def test_deletions_of_earlier_tries_count_even_if_the_source_changed(tmp_path: Path) -> None:
    checkpoints = FileCheckpoints(tmp_path / "c")
    crm, deletions = half_erased(checkpoints), 3
    for _ in range(2):  # the refused try keeps the count
        with pytest.raises(
            SourceError,
            match=r"^2 contacts would be deleted, but max_deletes=3 allows 3 in all tries, and earlier ones have "
            r"deleted 2; this one deleted nothing\.",
        ):
            erase(crm, *OTHERS, max_deletes=3, checkpoints=checkpoints, epoch=1)
        assert crm.calls.count("delete") == deletions
    assert counts(erase(crm, *OTHERS, max_deletes=4, checkpoints=checkpoints, epoch=1)) == {"deleted": 2}


def test_retry_finishes_within_the_limit_and_a_cleared_task_counts_anew(tmp_path: Path) -> None:
    checkpoints = FileCheckpoints(tmp_path / "c")
    crm = half_erased(checkpoints)
    assert counts(erase(crm, "ada@x.org", max_deletes=3, checkpoints=checkpoints, epoch=1)) == {"deleted": 1}
    with pytest.raises(SourceError, match="earlier ones have deleted 3"):
        erase(crm, "bob@x.org", max_deletes=3, checkpoints=checkpoints, epoch=1)
    assert counts(erase(crm, "bob@x.org", max_deletes=3, checkpoints=checkpoints, epoch=2)) == {"deleted": 1}


def test_deletions_are_saved_before_the_next_ones_start_on_an_object_store_too(tmp_path: Path) -> None:
    class Far(FileCheckpoints):
        is_local = False

    checkpoints, seen, lock = Far(tmp_path / "c"), list[int](), threading.Lock()
    emails = [f"p{number}@x.org" for number in range(3 * LEAST)]

    class Watched(FakePeople):
        def delete_listed(self, email: str) -> None:
            with lock:
                saved = checkpoints.load()
                assert saved is not None
                seen.append(saved.notes.get("kept", {}).get("deleted", 0))
            super().delete_listed(email)

    erase(Watched(*emails), *emails, max_deletes=3 * LEAST, checkpoints=checkpoints)
    assert all(number - saved < 2 * LEAST for number, saved in enumerate(seen)), seen


@pytest.mark.parametrize("kept", ["two", {"deleted": "2"}, {"deleted": -2}, {"deleted": True}, {}])
def test_invalid_saved_count_is_ignored(tmp_path: Path, kept: Any) -> None:
    checkpoints = FileCheckpoints(tmp_path / "c")
    checkpoints.save(Checkpoint(epoch=0, fingerprint="", notes={"kept": kept}))
    assert counts(erase(FakePeople("bob@x.org"), "bob@x.org", max_deletes=1, checkpoints=checkpoints)) == {"deleted": 1}
    checkpoints.save(Checkpoint(epoch=0, fingerprint="", notes={"kept": {"deleted": 1}}))
    with pytest.raises(SourceError, match="earlier ones have deleted 1"):
        erase(FakePeople("eve@x.org"), "eve@x.org", max_deletes=1, checkpoints=checkpoints)


def test_address_column_can_be_named() -> None:
    crm = FakePeople(*OTHERS)
    rows = [{"mail": "bob@x.org", "email": "eve@x.org"}]
    assert counts(erase(crm, rows=rows, mapping={"email": "mail"})) == {"deleted": 1}
    assert crm.emails == ["eve@x.org"]


def test_deletions_count_even_if_lost_rejects_make_all_rows_be_sent_again(tmp_path: Path) -> None:
    class Lost(RejectsFile):
        def finish(self, wanted: int = 0) -> None:
            raise self.lost(wanted)

    checkpoints, crm = FileCheckpoints(tmp_path / "c"), FakePeople(*SPELLINGS, *OTHERS)
    with pytest.raises(LoadUnsaved):
        erase(crm, "ada@x.org", "nobody", rejects=Lost(tmp_path / "r.jsonl"), checkpoints=checkpoints)
    kept = checkpoints.load()
    assert kept is not None
    assert (kept.rows, kept.notes) == (0, {"kept": {"deleted": 3}})
    with pytest.raises(SourceError, match="earlier ones have deleted 3"):
        erase(crm, *OTHERS, max_deletes=4, checkpoints=checkpoints)


EVERY_SPELLING = "all contacts are read, to find every spelling of an address"


@pytest.mark.parametrize(
    ("given", "plan"),
    [
        ({}, ("compare", 1 + 1 + 2, EVERY_SPELLING)),
        ({"every_spelling": False}, ("delete", 2, "one call for each address, as it is given")),
        ({"rows": [{"email": "nobody"}]}, ("nothing", 0, "no rows are left to send")),
        (
            {"dry_run": True, "max_deletes": 0},
            ("compare", 1 + 1 + 2, f"{EVERY_SPELLING}: 3 contacts would be deleted for 2 addresses"),
        ),
    ],
)
def test_plan_shows_the_reads_and_a_dry_run_the_deletions(given: dict[str, Any], plan: Any) -> None:
    crm = FakePeople(*SPELLINGS, *OTHERS)
    summary = erase(crm, "ada@x.org", "gone@x.org", **given)
    assert (summary.plan, summary.plan_calls, summary.plan_why) == plan
    assert "delete" not in crm.calls or not given.get("dry_run")


@pytest.mark.parametrize(
    ("given", "forecast", "refusal"),
    [
        ({"max_deletes": 3}, "3 contacts would be deleted", ""),
        ({"max_deletes": 2}, "3 contacts would be deleted", "3 contacts, more than max_deletes=2"),
        ({"max_deletes": 1, "every_spelling": False}, "at most 1 contact would be deleted", ""),
    ],
)
def test_dry_run_predicts_the_limit(given: dict[str, Any], forecast: str, refusal: str) -> None:
    crm = FakePeople(*SPELLINGS, *OTHERS)
    summary = erase(crm, "ada@x.org", dry_run=True, **given)
    assert (summary.forecast, summary.refusal) == (forecast, refusal)
    assert crm.emails == [*SPELLINGS, *OTHERS]


def test_plan_calls_grow_with_contacts_and_assume_one_page_if_unknown() -> None:
    crm = FakePeople(*[f"p{n}@x.org" for n in range(11)])
    assert erase(crm, "p1@x.org").plan_calls == 2 + 1 + 1
    crm.count_contacts = lambda: None  # type: ignore[method-assign, assignment, return-value]
    assert erase(crm, "p2@x.org").plan_calls == 1 + 1 + 1


def test_inconsistent_listing_ends_the_run_before_any_deletion() -> None:
    crm = FakePeople(*SPELLINGS)
    crm.odd = True
    with pytest.raises(LoadStopped, match="ends early"):
        erase(crm, "ada@x.org")
    assert crm.emails == SPELLINGS


@pytest.mark.parametrize("dry_run", [False, True])
def test_listing_without_addresses_ends_the_run(dry_run: bool) -> None:
    crm = FakePeople()  # its contacts show none
    with pytest.raises(LoadStopped, match="no contact of the listing has an email") as stopped:
        erase(crm, "ada@x.org", dry_run=dry_run)
    assert (stopped.value.error.method, stopped.value.error.path) == ("GET", "/contacts")


def test_row_without_an_address_is_rejected_and_two_rows_are_one_person() -> None:
    crm = FakePeople(*SPELLINGS)
    assert counts(erase(crm, "ada@x.org", "ADA@x.org", "nobody")) == {"deleted": 1, "skipped": 1, "rejected": 1}


def test_row_that_failed_halfway_continues_with_the_other_spellings() -> None:
    crm = FakePeople(*SPELLINGS)
    crm.trouble[SPELLINGS[1]] = e.CrmTooManyRequestsError("slow down", status=429)
    assert counts(erase(crm, "ada@x.org")) == {"deleted": 1}
    assert crm.emails == []
    assert crm.calls.count("delete") == 4


def test_contact_deleted_since_the_read_counts_as_done_unless_on_error_differs() -> None:
    gone = e.CrmContactNotFoundError("Contact not found.", status=404)
    crm = FakePeople("bob@x.org")
    crm.trouble["bob@x.org"] = gone
    assert counts(erase(crm, "bob@x.org")) == {"unchanged": 1}
    crm.trouble["bob@x.org"] = gone
    summary = erase(crm, "bob@x.org", on_error={"CONTACT_NOT_FOUND": "reject"})
    assert (counts(summary), summary.calls_saved) == ({"rejected": 1}, 1)
    crm = FakePeople(*SPELLINGS)
    crm.trouble[SPELLINGS[0]] = gone
    assert counts(erase(crm, "ada@x.org")) == {"deleted": 1}


def test_no_rows_mean_no_calls() -> None:
    crm = FakePeople(*SPELLINGS)
    assert erase(crm, "nobody").plan == "nothing"
    assert crm.calls == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"max_deletes": -1}, "max_deletes"),
        ({"max_deletes": True}, "max_deletes"),
        ({"max_deletes": "5"}, "max_deletes"),
        ({"mode": "update"}, "mode"),
        ({"mapping": {"email": "mail", "name": "n"}}, "deleted by its address"),
        ({"mapping": {"mail": "mail"}}, "deleted by its address"),
        ({"mapping": []}, "mapping"),
        ({"state_path": "state"}, "state_path has no meaning"),
    ],
)
def test_invalid_deletion_arguments_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(SourceError, match=message):
        DELETIONS.check_arguments(given, later=lambda value: False)


def test_decisive_options_and_saved_calls() -> None:
    one, other = DELETIONS.options_of({}), DELETIONS.options_of({"every_spelling": False})
    assert one.decisive != other.decisive
    assert (one.max_deletes, one.effect) == (0, {})
    summary = erase(FakePeople(*OTHERS), *OTHERS, "gone@x.org")
    assert summary.calls_saved == 3, "the requests of a fake are not counted"
    assert Outcome.DELETED in one.outcomes
