"""Rows that cannot be sent and whose record has another row: sent again, they never replace newer values."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from crm_provider import errors as e
from crm_provider.errors.on_error import Work
from crm_provider.errors.policy import ErrorPolicy
from crm_provider.load.job import LoadJob
from crm_provider.load.mapping.deal_mapper import DealMapper
from crm_provider.load.mapping.mapper import Mapper
from crm_provider.load.options import ContactOptions
from crm_provider.load.outcomes.file import OutcomesFile
from crm_provider.load.preflight import InputDigest, check
from crm_provider.load.rejects.file import RejectedRows, RejectsFile
from crm_provider.load.report import Summary, report
from crm_provider.load.rows import Contact, InvalidRow, Outcome, Row, SourceError
from crm_provider.load.sources.source import open_source
from crm_provider.load.state.temp_tables import RowStatus, StagedRows, record_mark

from .fake_crm import FakeCrm, Rows

MAPPING = {"email": "mail", "name": "name", "n": {"column": "n", "type": "number"}}
STALE, NEW = {"mail": "Old@x.org", "name": "OldName", "n": "x1"}, {"mail": "old@x.org", "name": "NewName", "n": "2"}
NEITHER = {"mail": "bob@x.org", "name": "Bob", "n": "3"}
DEAL, CONTACT = "11111111-0000-4000-8000-000000000001", "22222222-0000-4000-8000-000000000002"
PIPELINE, STAGE = "33333333-0000-4000-8000-000000000003", "44444444-0000-4000-8000-000000000004"


class Loads:
    """A load of rows into one CRM, and resends of what it rejected."""

    def __init__(self, folder: Path, suffix: str = "jsonl") -> None:
        self.crm, self.folder, self.suffix = FakeCrm(), folder, suffix

    def path(self, name: str = "first") -> Path:
        return self.folder / f"{name}.{self.suffix}"

    def run(self, source: Any, name: str = "first", **options: Any) -> Summary:
        outcomes = OutcomesFile(self.folder / f"{name}-outcomes.jsonl", keys=("name",))
        return LoadJob(
            source=source,
            mapper=Mapper(MAPPING),
            client=self.crm,  # type: ignore[arg-type]
            stats=self.crm.stats,
            options=ContactOptions(**options),
            policy=ErrorPolicy(work=Work.LOAD),
            rejects=RejectsFile.of(self.path(name), source),
            outcomes=outcomes,
        ).run()

    def resend(self, **options: Any) -> Summary:
        return self.run(RejectedRows(self.path()), "again", **options)

    def correct(self, old: str, new: str) -> None:
        text = self.path().read_text()
        assert old in text
        self.path().write_text(text.replace(old, new))

    def names(self) -> dict[str, Any]:
        return {email: contact["attributes"]["name"] for email, contact in self.crm.contacts.items()}


def counted(summary: Summary) -> dict[str, int]:
    return {outcome.value: summary[outcome] for outcome in Outcome if summary[outcome]}


@pytest.fixture(params=["jsonl", "csv"])
def loads(request: pytest.FixtureRequest, tmp_path: Path) -> Loads:
    return Loads(tmp_path, request.param)


def test_corrected_row_never_replaces_a_newer_one(loads: Loads, caplog: pytest.LogCaptureFixture) -> None:
    assert counted(loads.run(open_source([STALE, NEW]))) == {"created": 1, "rejected": 1}
    assert "A later row for the same record is valid; if this one is sent again, it is left out." in (
        loads.path().read_text()
    )
    loads.correct("x1", "1")
    with caplog.at_level(logging.WARNING):
        again = loads.resend()
    said = "1 row is left out: the load that rejected it took another row for the same record."
    assert said in caplog.messages and said in report(again, title="Load", ending="Done.").splitlines()
    assert counted(again) == {"skipped": 1} and loads.names() == {"old@x.org": "NewName"}
    (outcome,) = map(json.loads, (loads.folder / "again-outcomes.jsonl").read_text().splitlines())
    assert outcome["outcome"] == "skipped"
    assert outcome["message"] == "The load that rejected the row took another row for the same record."


def test_row_that_is_still_invalid_keeps_its_mark(loads: Loads) -> None:
    loads.run(open_source([STALE, NEW]))
    assert counted(loads.resend()) == {"rejected": 1}
    loads.path().write_bytes(loads.path("again").read_bytes())
    loads.correct("x1", "1")
    assert counted(loads.resend()) == {"skipped": 1}


def test_row_is_sent_if_its_address_was_wrong(loads: Loads) -> None:
    loads.run(open_source([STALE, NEW]))
    loads.correct("x1", "1")
    loads.correct("Old@x.org", "other@x.org")
    assert counted(loads.resend()) == {"created": 1}
    assert loads.names() == {"old@x.org": "NewName", "other@x.org": "OldName"}


def test_row_for_another_record_keeps_its_mark_if_the_crm_refuses_it(loads: Loads) -> None:
    loads.run(open_source([STALE, NEW]))
    loads.correct("x1", "1")
    loads.correct("Old@x.org", "other@x.org")
    loads.crm.trouble = lambda call, email: e.CrmInvalidInputError("No.") if email == "other@x.org" else None
    assert counted(loads.resend()) == {"rejected": 1}
    loads.path().write_bytes(loads.path("again").read_bytes())
    loads.correct("other@x.org", "old@x.org")
    assert counted(loads.resend()) == {"skipped": 1}


def test_row_for_another_record_keeps_its_mark_if_it_is_not_the_only_one(loads: Loads) -> None:
    loads.run(open_source([STALE, {**STALE, "name": "OlderName"}, NEW]))
    loads.correct("x1", "1")
    loads.correct("Old@x.org", "other@x.org")
    assert counted(loads.resend(duplicates="reject")) == {"rejected": 2}
    loads.path().write_bytes(loads.path("again").read_bytes())
    loads.correct("other@x.org", "old@x.org")
    assert counted(loads.resend()) == {"skipped": 2}


def test_row_is_sent_once_its_mark_is_removed(tmp_path: Path) -> None:
    loads = Loads(tmp_path)
    loads.run(open_source([STALE, NEW]))
    loads.correct("x1", "1")
    loads.correct(f', "replaced": "{record_mark("old@x.org")}"', "")
    assert counted(loads.resend()) == {"created": 1}


def test_newest_row_is_sent_once_it_is_corrected(loads: Loads) -> None:
    loads.run(open_source([{**NEW, "n": "1"}, NEITHER, {**STALE, "mail": "old@x.org"}]))
    assert loads.names() == {"old@x.org": "NewName", "bob@x.org": "Bob"}
    loads.correct("x1", "1")
    assert counted(loads.resend()) == {"updated": 1}
    assert loads.names() == {"old@x.org": "OldName", "bob@x.org": "Bob"}


LEFT_OUT = "1 row cannot be sent, and {} for the same record is valid: a resend of the rejects leaves it out."
SENT = "1 row is sent although {} for the same record cannot be sent."


@pytest.mark.parametrize(
    ("rows", "duplicates", "notes"),
    [
        ([STALE, NEW], "last", [LEFT_OUT.format("a later row")]),
        ([NEW, STALE], "last", [SENT.format("a later row")]),
        ([STALE, NEW], "first", [SENT.format("an earlier row")]),
        ([NEW, STALE], "first", [LEFT_OUT.format("an earlier row")]),
        ([NEW, STALE], "reject", [LEFT_OUT.format("another row"), SENT.format("another row")]),
        ([NEW, NEW, STALE], "reject", []),
        ([NEITHER, STALE], "last", []),
        ([NEW, STALE, NEW], "last", [LEFT_OUT.format("a later row")]),
        ([NEW, STALE, STALE], "last", [SENT.format("a later row")]),
        ([{**STALE, "mail": "nobody"}, NEW], "last", []),
        (
            [STALE, STALE, NEW],
            "last",
            [LEFT_OUT.format("a later row").replace("1 row", "2 rows").replace("it out", "them out")],
        ),
        (
            [NEW, STALE, NEITHER, {**STALE, "mail": "bob@x.org"}],
            "last",
            ["2 rows are sent although a later row for the same record cannot be sent."],
        ),
    ],
)
def test_log_and_report_say_which_rows_have_another_row(
    rows: Sequence[dict[str, Any]], duplicates: Any, notes: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        found = check(open_source(list(rows)), Mapper(MAPPING), ContactOptions(duplicates=duplicates))
    assert list(found.notes) == notes
    assert [text for text in caplog.messages if "same record" in text] == notes
    assert "old" not in caplog.text.lower().replace("left out", "")
    assert sum(found.as_found().values()) == len(rows)


def test_load_that_sends_nothing_warns_of_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), pytest.raises(SourceError, match="1 of 2 rows cannot be sent"):
        check(open_source([STALE, NEW]), Mapper(MAPPING), ContactOptions(on_invalid="stop"))
    assert not [text for text in caplog.messages if "same record" in text]


class Marked(Rows):
    """Rows of a rejects file that have a mark."""

    def rows(self) -> Any:
        yield from (row._replace(replaced=record_mark("old@x.org")) for row in super().rows())


def test_several_rows_that_are_left_out_are_counted() -> None:
    found = check(Marked([{**NEW, "n": "1"}, NEW, NEITHER]), Mapper(MAPPING), ContactOptions())
    said = "2 rows are left out: the load that rejected them took another row for the same record."
    assert list(found.notes) == [said]
    assert found.as_found() == {
        "to send": 1, "unchanged": 0, "duplicate": 2, "suppressed": 0, "cannot be sent": 0,
    }  # fmt: skip
    found.staged.close()


def test_input_with_another_mark_is_another_input() -> None:
    def fingerprint(mark: str) -> str:
        digest = InputDigest(b"")
        digest.add(Row(1, {"mail": "old@x.org"}, replaced=mark))
        return digest.as_text()

    assert len({fingerprint(""), fingerprint("a"), fingerprint("b")}) == 3


def test_rows_that_prove_to_be_for_one_record_are_compared() -> None:
    """Two rows of a deal, by its id and by its contact: the load finds out when it has read the deals."""
    table = StagedRows()
    table.add_invalid(Row(1, {"n": "x"}), "n: no number", "by contact")
    table.add(Row(2, {}), RowStatus.SEND, Contact("by id", {}))
    table.mark_duplicates("last")
    assert [row.status.name for row in table.rows()] == ["INVALID", "SEND"]
    table.take_for_same("by contact", "by id")
    table.mark_duplicates("last")
    (invalid, _) = table.rows()
    assert (invalid.status.name, invalid.row.replaced) == ("STALE", record_mark("by contact"))
    table.take_for_same("by id", "a third one")
    table.add(Row(3, {}), RowStatus.SEND, Contact("a third one", {}))
    table.mark_duplicates("reject")
    assert [row.status.name for row in table.rows()] == ["INVALID", "AMBIGUOUS", "AMBIGUOUS"]
    table.close()


# -- the record of an invalid row -------------------------------------------------------------------------------


def key_of_invalid(mapper: Mapper | DealMapper, row: dict[str, Any], problem: str | None = None) -> str | None:
    with pytest.raises(InvalidRow) as invalid:
        mapper(Row(1, row, problem))
    return invalid.value.key


def test_contact_of_an_invalid_row() -> None:
    mapper = Mapper(MAPPING)
    assert key_of_invalid(mapper, STALE) == "old@x.org"
    assert key_of_invalid(mapper, {**STALE, "mail": "nobody"}) is None
    assert key_of_invalid(mapper, NEW, "line 3 has 4 values instead of 3") is None


OF_DEALS = {
    "deal_id": "d", "contact_id": "c", "pipeline_id": "p", "stage_id": "s", "amount": {"column": "a", "type": "number"},
}  # fmt: skip
WHOLE = {"d": DEAL.upper(), "c": CONTACT, "p": PIPELINE, "s": STAGE, "a": "x"}
BY_CONTACT = f"{CONTACT} in {PIPELINE}"


@pytest.mark.parametrize(
    ("changed", "key"),
    [
        ({}, DEAL),
        ({"d": None}, BY_CONTACT),
        ({"d": "deal 7"}, None),
        ({"d": None, "c": "nobody"}, None),
        ({"d": None, "p": ""}, None),
        ({"d": None, "s": "", "a": "1"}, BY_CONTACT),
    ],
)
def test_deal_of_an_invalid_row(changed: dict[str, Any], key: str | None) -> None:
    assert key_of_invalid(DealMapper(OF_DEALS, mode="upsert"), {**WHOLE, **changed}) == key
