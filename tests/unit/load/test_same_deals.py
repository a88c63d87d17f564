"""Upserts in which one row names a deal by its id, and another by its contact and pipeline."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from crm_provider import errors as e
from crm_provider.client.pagination import AT_ONCE
from crm_provider.errors.on_error import Work
from crm_provider.errors.policy import ErrorPolicy
from crm_provider.load.job import LoadJob
from crm_provider.load.kinds.deals import DEALS
from crm_provider.load.preflight import check
from crm_provider.load.rejects.file import RejectsFile
from crm_provider.load.report import LoadUnsaved
from crm_provider.load.rows import SourceError
from crm_provider.load.sources.source import open_source
from crm_provider.load.state.checkpoint import DoneRows, FileCheckpoints
from crm_provider.load.state.fingerprints import Fingerprints
from crm_provider.load.state.temp_tables import RowStatus
from crm_provider.load.workers import Cancelled, RequestStats

from .test_deal_sender import BEGAN, CONTACT, DEAL, FIRST, LAST, OTHER, PIPELINE, FakeDeals, remote_of

ELSEWHERE = "33333333-0000-4000-8000-000000000002"
FIELDS = {"deal_id": "d", "pipeline_id": "p", "stage_id": "s", "pb_name": "n"}
LETTERS = "abcdef00-0000-4000-8000-00000000000a"
BY_ADDRESS, BY_CONTACT = {**FIELDS, "contact_email": "c"}, {**FIELDS, "contact_id": "c"}
WITHOUT_IDS = {name: column for name, column in BY_ADDRESS.items() if name != "deal_id"}
NAMED = {"d": DEAL.upper(), "c": None, "p": None, "s": LAST, "n": "by id"}


def found(contact: str = "Ada@X.org", pipeline: str = PIPELINE, stage: str = FIRST) -> dict[str, Any]:
    return {"d": None, "c": contact, "p": pipeline, "s": stage, "n": "by contact"}


def loaded(
    crm: FakeDeals, rows: list[dict[str, Any]], mapping: Any = BY_ADDRESS, *, state: Path | None = None, **given: Any
) -> dict[str, int]:
    """The outcomes of a load."""
    job = {name: given.pop(name) for name in ("checkpoints", "rejects", "policy") if name in given}
    summary = LoadJob(
        source=open_source(rows),
        kind=DEALS,
        mapper=DEALS.mapper_of({"mapping": mapping, **given}),
        client=crm,  # type: ignore[arg-type]
        stats=RequestStats(),
        options=DEALS.options_of(given),
        fingerprints=None if state is None else Fingerprints(state, b"k" * 32),
        **job,
    ).run()
    return {outcome.value: count for outcome, count in summary.counts.items() if count}


class FakeCrm(FakeDeals):
    """A CRM with the calls that a whole load needs."""

    def start_of_writes(self) -> datetime | None:
        """The CRM sends no clock."""
        return None

    def ping(self) -> None:
        """No trouble."""


WRITES = {"last": "by contact", "first": "by id", "reject": None}


@pytest.mark.parametrize("mapping", [BY_ADDRESS, BY_CONTACT])
@pytest.mark.parametrize("duplicates", list(WRITES))
def test_rows_by_id_and_by_contact_are_rows_of_one_deal(mapping: Any, duplicates: str) -> None:
    crm = FakeCrm().add(stage=FIRST)
    crm.contacts["ada@x.org"] = CONTACT
    rows = [NAMED, found("ada@x.org" if mapping is BY_ADDRESS else CONTACT, stage=LAST)]
    written: list[Any] = []
    crm.update_deal = lambda deal_id, **changes: written.append(changes["attributes"]["pb_name"])  # type: ignore[method-assign,assignment,return-value]
    expected = {"rejected": 2} if duplicates == "reject" else {"updated": 1, "skipped": 1}
    assert loaded(crm, rows, mapping, duplicates=duplicates) == expected
    assert written == ([] if WRITES[duplicates] is None else [WRITES[duplicates]])


@pytest.mark.parametrize("duplicates", ["first", "last"])
@pytest.mark.parametrize("mapping", [BY_ADDRESS, BY_CONTACT])
def test_state_file_does_not_change_which_row_is_sent(tmp_path: Path, mapping: Any, duplicates: str) -> None:
    crm = FakeCrm().add(stage=FIRST)
    crm.contacts["bob@x.org"] = OTHER
    written: list[Any] = []
    crm.update_deal = lambda deal_id, **changes: written.append(changes["attributes"]["pb_name"])  # type: ignore[method-assign,assignment,return-value]
    mail = "ada@x.org" if mapping is BY_ADDRESS else CONTACT
    rows = [NAMED, found(mail, stage=LAST)] if duplicates == "last" else [found(mail, stage=LAST), NAMED]
    for _ in range(3):
        outcomes = loaded(crm, rows, mapping, state=tmp_path / "state", duplicates=duplicates)
        assert outcomes == {"updated": 1, "skipped": 1}
    assert written == ["by contact"] * 3


def test_unsent_duplicate_counts_as_new_in_the_next_load(tmp_path: Path) -> None:
    crm, state = FakeCrm().add(stage=FIRST), tmp_path / "state"
    alone, both = [found("ada@x.org", stage=LAST)], [found("ada@x.org", stage=LAST), NAMED]
    assert loaded(crm, alone, state=state) == {"updated": 1}
    assert loaded(crm, alone, state=state) == {"unchanged": 1}
    assert loaded(crm, both, state=state) == {"updated": 1, "skipped": 1}
    assert loaded(crm, alone, state=state) == {"updated": 1}


def test_rows_of_other_deals_are_remembered(tmp_path: Path) -> None:
    crm, state = FakeCrm().add(stage=FIRST), tmp_path / "state"
    rows = [NAMED, found("ada@x.org", stage=LAST), {**NAMED, "d": LETTERS}]
    crm.add(LETTERS, contactId=OTHER)
    assert loaded(crm, rows, state=state) == {"updated": 2, "skipped": 1}
    assert loaded(crm, rows, state=state) == {"updated": 1, "unchanged": 1, "skipped": 1}


@pytest.mark.parametrize("mapping", [BY_ADDRESS, BY_CONTACT])
@pytest.mark.parametrize(
    ("giver", "pipeline", "others", "outcomes"),
    [
        (OTHER, PIPELINE, {}, {"updated": 1, "rejected": 1}),  # otherwise a second deal
        (OTHER, PIPELINE, {"contactId": CONTACT}, {"updated": 2}),  # the contact has a deal of its own
        (OTHER, ELSEWHERE, {}, {"updated": 1, "created": 1}),
        (CONTACT, ELSEWHERE, {}, {"updated": 1, "created": 1}),
    ],
)
def test_no_second_deal_for_a_contact_that_another_row_gives_one(
    mapping: Any, giver: str, pipeline: str, others: dict[str, Any], outcomes: dict[str, int]
) -> None:
    crm = FakeCrm().add(stage=FIRST, contactId=giver).add(LETTERS, **{"contactId": ELSEWHERE, **others})
    crm.contacts["ada@x.org"] = CONTACT
    contact = "ada@x.org" if mapping is BY_ADDRESS else CONTACT.upper()
    rows = [{**NAMED, "c": contact}, found("Ada@X.org" if mapping is BY_ADDRESS else CONTACT, pipeline)]
    crm.contacts["Ada@X.org"] = CONTACT
    assert loaded(crm, rows, mapping, policy=ErrorPolicy(work=Work.LOAD)) == outcomes
    assert crm.calls.count("create") == outcomes.get("created", 0)


def statuses(crm: FakeDeals, rows: list[dict[str, Any]], mapping: Any = BY_ADDRESS, **given: Any) -> list[str]:
    remote = remote_of(crm, rows, mapping, mode="upsert", **given)
    remote.make_plan(may_compare=True)
    remote.read_all(lambda count, records: None)
    try:
        return [row.status.name for row in remote._staged.rows()]
    finally:
        remote.close()


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([found("ada@x.org"), NAMED], ["DUPLICATE", "SEND"]),
        ([found("ada@x.org"), found("ada@x.org"), NAMED], ["DUPLICATE", "DUPLICATE", "SEND"]),
        ([NAMED, found("ada@x.org"), NAMED], ["DUPLICATE", "DUPLICATE", "SEND"]),
        ([{**NAMED, "d": OTHER}, found("ada@x.org")], ["SEND", "SEND"]),
        ([NAMED, found("ada@x.org", ELSEWHERE)], ["SEND", "SEND"]),
        ([NAMED, found("nobody@x.org")], ["SEND", "SEND"]),
        ([found("no address"), found("ada@x.org"), NAMED], ["INVALID", "DUPLICATE", "SEND"]),
        ([found("ada@x.org"), found("bob@x.org")], ["SEND", "SEND"]),
        ([found("ada@x.org", pipeline=PIPELINE.upper()), NAMED], ["DUPLICATE", "SEND"]),
    ],
)
def test_only_rows_of_the_same_deal_are_duplicates(rows: list[dict[str, Any]], expected: list[str]) -> None:
    assert statuses(FakeDeals().add(), rows) == expected


@pytest.mark.parametrize("shown", [LETTERS, LETTERS.upper()])
def test_case_of_an_id_does_not_matter(shown: str) -> None:
    for given in (LETTERS, LETTERS.upper()):
        assert statuses(FakeDeals().add(shown), [found("ada@x.org"), {**NAMED, "d": given}]) == ["DUPLICATE", "SEND"]


@pytest.mark.parametrize(
    ("mode", "plan", "calls"),
    [("update", "compare", ["pages of deals"]), ("update", "auto", []), ("upsert", "auto", [])],
)
def test_no_address_is_looked_up_if_each_row_has_an_id(mode: str, plan: str, calls: list[str]) -> None:
    crm = FakeDeals().add()
    remote = remote_of(crm, [{**NAMED, "c": None}], {"deal_id": "d", "stage_id": "s"}, mode=mode, plan=plan)
    remote.make_plan(may_compare=True)
    remote.read_all(lambda count, records: None)
    assert crm.calls == calls
    remote.close()


EARLIER = "a row that was sent before may be for the same deal"


@pytest.mark.parametrize(
    ("rows", "done", "mode", "plan", "why"),
    [
        ([found("ada@x.org"), NAMED], 1, "upsert", "compare", EARLIER),
        ([found("ada@x.org"), found("ada@x.org"), NAMED], 2, "upsert", "compare", EARLIER),
        ([found("ada@x.org"), NAMED], 2, "upsert", "nothing", "no rows are left"),
        ([NAMED, found("ada@x.org")], 1, "upsert", "compare", "the API cannot search"),
        ([NAMED, {**NAMED, "d": OTHER}], 1, "upsert", "upsert", "fewer than 50 rows"),
        ([{**found("ada@x.org"), "s": None}, NAMED], 1, "upsert", "upsert", "fewer than 50 rows"),
    ],
)
def test_deals_are_read_if_a_done_row_may_be_for_the_same_deal(
    rows: list[dict[str, Any]], done: int, mode: str, plan: str, why: str
) -> None:
    remote = remote_of(FakeDeals().add(), rows, BY_ADDRESS, mode=mode, resumed=True, done=DoneRows(done))
    found = remote.make_plan(may_compare=False) if plan == "compare" else remote.make_plan(may_compare=True)
    assert found.name == plan
    assert why in found.why
    remote.close()


def test_addresses_of_done_rows_are_planned_and_looked_up() -> None:
    crm = FakeDeals().add()
    remote = remote_of(crm, [found("ada@x.org"), NAMED], BY_ADDRESS, mode="upsert", resumed=True, done=DoneRows(1))
    assert remote.make_plan(may_compare=True).calls == 1 + 1 + 1 + 1  # the row, a page, the total, the address
    read: list[Any] = []
    remote.read_all(lambda count, records: read.append((count, records)))
    assert read == [(2, "deals"), (1, "contacts")]
    assert [row.status.name for row in remote._staged.rows()] == ["DUPLICATE", "SEND"]
    remote.close()


def test_only_sent_addresses_are_looked_up_without_ids() -> None:
    crm = FakeDeals().add()
    crm.contacts["bob@x.org"] = OTHER
    rows = [NAMED, found("bob@x.org"), found("ada@x.org")]
    remote = remote_of(crm, rows, BY_ADDRESS, mode="upsert", resumed=True, done=DoneRows(2))
    remote.make_plan(may_compare=True)
    remote.read_all(lambda count, records: None)
    assert crm.calls == ["pages of deals", "contact"]
    assert [row.status.name for row in remote._staged.rows()] == ["DUPLICATE", "SEND", "SEND"]
    remote.close()


def test_addresses_are_looked_up_in_parallel_and_can_be_cancelled() -> None:
    crm, together = FakeDeals().add(), threading.Barrier(AT_ONCE, timeout=30)
    get_contact = crm.get_contact

    def get(email: str) -> dict[str, Any]:
        together.wait()
        return get_contact(email)

    crm.get_contact = get  # type: ignore[method-assign]
    remote = remote_of(crm, [NAMED, *(found(f"p{n}@x.org") for n in range(AT_ONCE))], BY_ADDRESS, mode="upsert")
    remote.make_plan(may_compare=True)
    read: list[Any] = []

    def tick(count: int, records: str) -> None:
        read.append((count, records))
        if read[-1] == (2, "contacts"):
            remote._cancel_token.is_set = True

    with pytest.raises(Cancelled):
        remote.read_all(tick)
    assert read == [(2, "deals"), (1, "contacts"), (2, "contacts")]
    remote.close()


def test_address_of_a_row_is_looked_up_once() -> None:
    crm = FakeDeals().add()
    assert statuses(crm, [found("ada@x.org"), found("ada@x.org", ELSEWHERE), NAMED]) == ["DUPLICATE", "SEND", "SEND"]
    assert crm.calls == ["pages of deals", "contact"]


def test_addresses_stay_in_memory_only_while_they_are_looked_up() -> None:
    remote = remote_of(FakeDeals().add(), [NAMED, found(), found("bob@x.org")], BY_ADDRESS, mode="upsert")
    remote.make_plan(may_compare=True)
    unknown, given = remote._unknown, set[str]()

    def observed(asked: set[str]) -> Iterator[str]:
        nonlocal given
        given = asked
        for email in unknown(asked):
            assert asked
            yield email

    remote._unknown = observed  # type: ignore[method-assign]
    remote.read_all(lambda count, records: None)
    assert given == set()
    assert len(remote.contacts) == 2
    remote.close()


def test_contact_without_an_id_or_with_two_deals_is_left_to_its_row() -> None:
    crm = FakeDeals().add()
    crm.contacts["ada@x.org"] = 7  # type: ignore[assignment]
    assert statuses(crm, [found("ada@x.org"), NAMED]) == ["SEND", "SEND"]
    assert statuses(FakeDeals().add().add(OTHER), [found("ada@x.org"), NAMED]) == ["SEND", "SEND"]


def test_loaded_row_is_sent_if_another_one_may_have_changed_its_deal() -> None:
    options, mapper = DEALS.options_of({}), DEALS.mapper_of({"mapping": BY_ADDRESS})
    rows = open_source([NAMED, found("ada@x.org"), found("bob@x.org")])
    staged = check(rows, mapper, options, unchanged=lambda deal: deal.email is not None).staged
    assert staged.has(DEAL) is True
    staged.take_for_same(f"ada@x.org in {PIPELINE}", DEAL)
    staged.mark_duplicates("last")
    assert [row.status for row in staged.rows()] == [RowStatus.DUPLICATE, RowStatus.SEND, RowStatus.SAME]
    staged.close()


def test_all_or_nothing_writes_no_deal() -> None:
    crm = FakeCrm().add()
    rows = [NAMED, found("ada@x.org")]
    with pytest.raises(SourceError, match=r"^1 deal is in several rows.*nothing was written"):
        loaded(crm, rows, duplicates="reject", on_invalid="stop")
    crm.add(LETTERS, pipelineId=ELSEWHERE)
    rows += [{**NAMED, "d": LETTERS}, found("ada@x.org", ELSEWHERE)]
    with pytest.raises(SourceError, match=r"^2 deals are in several rows"):
        loaded(crm, rows, duplicates="reject", on_invalid="stop")
    assert "update" not in " ".join(crm.calls)


def test_deal_whose_id_is_in_no_row_stops_nothing() -> None:
    rows = [{**NAMED, "d": LETTERS}, found("ada@x.org", stage=LAST)]
    crm = FakeCrm().add().add(LETTERS, contactId=OTHER)
    assert loaded(crm, rows, duplicates="reject", on_invalid="stop") == {"updated": 2}


def test_error_while_looking_up_addresses_ends_the_run() -> None:
    crm = FakeCrm().add()

    def down(email: str) -> Any:
        raise e.CrmInternalServerError("down", status=500)

    crm.get_contact = down  # type: ignore[method-assign]
    remote = remote_of(crm, [NAMED, found("ada@x.org")], BY_ADDRESS, mode="upsert")
    remote.make_plan(may_compare=True)
    with pytest.raises(e.CrmInternalServerError):
        remote.read_all(lambda count, records: None)
    remote.close()


class LostRejects(RejectsFile):
    """A rejects file that has lost its rows at the end."""

    def finish(self, wanted: int = 0) -> None:
        raise self.lost(wanted)


def test_load_with_a_lost_file_knows_the_deals_it_created(tmp_path: Path) -> None:
    crm, checkpoints = FakeCrm(), FileCheckpoints(tmp_path / "checkpoint")
    rows = [found("ada@x.org"), found("no address")]
    crm.start_of_writes = lambda: BEGAN  # type: ignore[method-assign]
    crm.create_deal = lambda **fields: crm.add(createdAt=BEGAN.isoformat()).get_deal(DEAL)  # type: ignore[method-assign]
    given = {"mode": "create", "checkpoints": checkpoints}
    with pytest.raises(LoadUnsaved):
        loaded(crm, rows, WITHOUT_IDS, rejects=LostRejects(tmp_path / "lost.jsonl"), **given)
    assert list(crm.deals) == [DEAL]
    crm.create_deal = None  # type: ignore[method-assign,assignment]
    outcomes = loaded(crm, rows, WITHOUT_IDS, rejects=RejectsFile(tmp_path / "rejects.jsonl"), **given)
    assert outcomes == {"unchanged": 1, "rejected": 1}
