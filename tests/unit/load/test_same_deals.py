"""Upserts in which one row names a deal by its id, and another one by its contact and pipeline."""

from __future__ import annotations

from typing import Any

import pytest

from crm_provider import errors as e
from crm_provider.load.job import LoadJob
from crm_provider.load.kinds.deals import DEALS
from crm_provider.load.preflight import check
from crm_provider.load.rows import SourceError
from crm_provider.load.sources.source import open_source
from crm_provider.load.state.temp_tables import RowStatus
from crm_provider.load.workers import RequestStats

from .test_deal_sender import CONTACT, DEAL, FIRST, LAST, OTHER, PIPELINE, FakeDeals, remote_of

ELSEWHERE = "33333333-0000-4000-8000-000000000002"
FIELDS = {"deal_id": "d", "pipeline_id": "p", "stage_id": "s", "pb_name": "n"}
BY_ADDRESS, BY_CONTACT = {**FIELDS, "contact_email": "c"}, {**FIELDS, "contact_id": "c"}
NAMED = {"d": DEAL.upper(), "c": None, "p": None, "s": LAST, "n": "by id"}


def found(contact: str = "Ada@X.org", pipeline: str = PIPELINE, stage: str = FIRST) -> dict[str, Any]:
    return {"d": None, "c": contact, "p": pipeline, "s": stage, "n": "by contact"}


def loaded(crm: FakeDeals, rows: list[dict[str, Any]], mapping: Any = BY_ADDRESS, **given: Any) -> dict[str, int]:
    """The outcomes of a load."""
    summary = LoadJob(
        source=open_source(rows),
        kind=DEALS,
        mapper=DEALS.mapper_of({"mapping": mapping}),
        client=crm,  # type: ignore[arg-type]
        stats=RequestStats(),
        options=DEALS.options_of(given),
    ).run()
    return {outcome.value: count for outcome, count in summary.counts.items() if count}


class FakeCrm(FakeDeals):
    """Also what a whole load asks for."""

    def start_of_writes(self) -> None:
        """The CRM shows no clock."""

    def ping(self) -> None:
        """It works."""


WRITES = {"last": "by contact", "first": "by id", "reject": None}


@pytest.mark.parametrize("mapping", [BY_ADDRESS, BY_CONTACT])
@pytest.mark.parametrize("duplicates", list(WRITES))
def test_both_rows_are_rows_of_one_deal(mapping: Any, duplicates: str) -> None:
    crm = FakeCrm().add(stage=FIRST)
    crm.contacts["ada@x.org"] = CONTACT
    rows = [NAMED, found("ada@x.org" if mapping is BY_ADDRESS else CONTACT, stage=LAST)]
    written: list[Any] = []
    crm.update_deal = lambda deal_id, **changes: written.append(changes["attributes"]["pb_name"])  # type: ignore[method-assign,assignment,return-value]
    expected = {"rejected": 2} if duplicates == "reject" else {"updated": 1, "skipped": 1}
    assert loaded(crm, rows, mapping, duplicates=duplicates) == expected
    assert written == ([] if WRITES[duplicates] is None else [WRITES[duplicates]])


def statuses(crm: FakeDeals, rows: list[dict[str, Any]], mapping: Any = BY_ADDRESS, **given: Any) -> list[str]:
    remote = remote_of(crm, rows, mapping, mode="upsert", **given)
    remote.make_plan(may_compare=True)
    remote.read_all(lambda count: None)
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
    ],
)
def test_only_rows_of_the_same_deal_are_duplicates(rows: list[dict[str, Any]], expected: list[str]) -> None:
    assert statuses(FakeDeals().add(), rows) == expected


def test_the_address_of_a_row_is_looked_up_once() -> None:
    crm = FakeDeals().add()
    assert statuses(crm, [found("ada@x.org"), found("ada@x.org", ELSEWHERE), NAMED]) == ["DUPLICATE", "SEND", "SEND"]
    assert crm.calls == ["pages of deals", "contact"]


def test_a_contact_whose_id_is_not_shown_or_that_has_two_deals_is_left_to_its_row() -> None:
    crm = FakeDeals().add()
    crm.contacts["ada@x.org"] = 7  # type: ignore[assignment]
    assert statuses(crm, [found("ada@x.org"), NAMED]) == ["SEND", "SEND"]
    assert statuses(FakeDeals().add().add(OTHER), [found("ada@x.org"), NAMED]) == ["SEND", "SEND"]


def test_a_row_that_was_loaded_before_is_sent_if_another_one_may_have_changed_its_deal() -> None:
    options, mapper = DEALS.options_of({}), DEALS.mapper_of({"mapping": BY_ADDRESS})
    rows = open_source([NAMED, found("ada@x.org"), found("bob@x.org")])
    staged = check(rows, mapper, options, unchanged=lambda deal: deal.email is not None).staged
    assert staged.has(DEAL) is True
    staged.take_for_same(f"ada@x.org in {PIPELINE}", DEAL)
    staged.mark_duplicates("last")
    assert [row.status for row in staged.rows()] == [RowStatus.DUPLICATE, RowStatus.SEND, RowStatus.SAME]
    staged.close()


def test_nothing_is_written_if_the_user_wants_all_rows_or_none() -> None:
    crm = FakeCrm().add()
    with pytest.raises(SourceError, match=r"^1 deal\(s\) are in several rows.*nothing was written"):
        loaded(crm, [NAMED, found("ada@x.org")], duplicates="reject", on_invalid="stop")
    assert "update" not in " ".join(crm.calls)


def test_an_error_of_the_run_while_addresses_are_looked_up_ends_it() -> None:
    crm = FakeCrm().add()

    def down(email: str) -> Any:
        raise e.CrmInternalServerError("down", status=500)

    crm.get_contact = down  # type: ignore[method-assign]
    remote = remote_of(crm, [NAMED, found("ada@x.org")], BY_ADDRESS, mode="upsert")
    remote.make_plan(may_compare=True)
    with pytest.raises(e.CrmInternalServerError):
        remote.read_all(lambda count: None)
    remote.close()
