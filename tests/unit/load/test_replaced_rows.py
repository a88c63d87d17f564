"""Rows that cannot be sent and whose record has another row: sent again, they never replace newer values."""

from __future__ import annotations

import contextlib
import json
import logging
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crm_provider import errors as e
from crm_provider.errors.on_error import OnError, Work
from crm_provider.errors.policy import ErrorPolicy
from crm_provider.files.paths import CannotWrite
from crm_provider.load.job import LoadJob
from crm_provider.load.mapping.deal_mapper import DealMapper
from crm_provider.load.mapping.mapper import Mapper
from crm_provider.load.options import ContactOptions
from crm_provider.load.outcomes.file import OutcomesFile
from crm_provider.load.preflight import InputDigest, check
from crm_provider.load.rejects.file import RejectedRows, RejectsFile
from crm_provider.load.rejects.formats import Reject
from crm_provider.load.report import LoadStopped, Summary, report
from crm_provider.load.rows import Contact, InvalidRow, Outcome, Row, SourceError
from crm_provider.load.sources.source import open_source
from crm_provider.load.state.checkpoint import FileCheckpoints
from crm_provider.load.state.temp_tables import RowStatus, StagedRows, record_mark
from unit.fakes import one_line

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

    def run(self, source: Any, name: str = "first", on_error: OnError | None = None, **options: Any) -> Summary:
        outcomes = OutcomesFile(self.folder / f"{name}-outcomes.jsonl", keys=("name",))
        return LoadJob(
            source=source,
            mapper=Mapper(MAPPING),
            client=self.crm,  # type: ignore[arg-type]
            stats=self.crm.stats,
            options=ContactOptions(**options),
            policy=ErrorPolicy(on_error or {}, work=Work.LOAD),
            rejects=RejectsFile.of(self.path(name), source),
            outcomes=outcomes,
            checkpoints=FileCheckpoints(self.folder / f"{name}.checkpoint"),
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
    assert said in map(one_line, caplog.messages) and said in report(again, title="Load", ending="Done.").splitlines()
    assert counted(again) == {"skipped": 1} and loads.names() == {"old@x.org": "NewName"}
    (outcome,) = map(json.loads, (loads.folder / "again-outcomes.jsonl").read_text().splitlines())
    assert outcome["outcome"] == "skipped"
    assert outcome["message"] == "The load that rejected the row took another row for the same record."


REFUSALS: dict[str, e.CrmError] = {
    "reject": e.CrmInvalidInputError("No.", status=422),
    "skip": e.CrmSegmentationListNotFoundError("No.", status=404),
    "fail": e.CrmForbiddenError("No key.", status=403),
    "server": e.CrmServiceUnavailableError("Down.", status=503),
}
"""Action for an error of the CRM -> the error."""


def load_until_done(loads: Loads, rows: Sequence[dict[str, Any]], refusal: str, after: str, **options: Any) -> None:
    """A load that the CRM refuses for one contact.

    :param refusal: key of :data:`REFUSALS`
    :param after: of a load that stops: ``again``: it is tried again, and works; or nothing
    """
    loads.crm.trouble = lambda call, email: REFUSALS.get(refusal) if email == "old@x.org" else None
    with contextlib.suppress(LoadStopped):
        loads.run(open_source(list(rows)), on_error={"SEGMENTATION_LIST_NOT_FOUND": "skip"}, **options)
    loads.crm.trouble = lambda call, email: None
    if after == "again":
        loads.run(open_source(list(rows)), **options)


@pytest.mark.parametrize(
    ("refusal", "after", "exists", "ended"),
    [
        ("", "", {}, "skipped"),
        ("", "", {"name": "Older", "n": 1}, "skipped"),
        ("", "", {"name": "NewName", "n": 2}, "skipped"),
        ("reject", "", {}, "created"),
        ("server", "", {}, "created"),
        ("skip", "", {}, "created"),
        ("fail", "", {}, "created"),
        ("fail", "again", {}, "skipped"),
        ("reject", "again", {}, "created"),
        ("skip", "again", {}, "created"),
    ],
)
def test_corrected_row_is_left_out_only_if_the_other_row_was_taken(
    refusal: str, after: str, exists: dict[str, Any], ended: str, loads: Loads
) -> None:
    if exists:
        loads.crm.add("old@x.org", exists)
    load_until_done(loads, [STALE, NEW, {**NEITHER, "n": "x"}], refusal, after)
    loads.correct("x1", "1")
    lines = loads.path().read_text().splitlines(keepends=True)
    assert [("left out" in line, "replaced" in line) for line in lines if "OldName" in line] == [
        (ended == "skipped", ended == "skipped")
    ]
    loads.path().write_text("".join(line for line in lines if "NewName" not in line and "Bob" not in line))
    assert counted(loads.resend()) == {ended: 1}


@pytest.mark.parametrize("trouble", ["", "disk", "line"])
def test_load_that_ends_with_an_exception_removes_marks_if_it_can(
    trouble: str, loads: Loads, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(call: str, email: str) -> None:
        if trouble == "line":  # of another program
            with loads.path().open("a") as file:
                file.write("line\n")
        raise ZeroDivisionError

    full = CannotWrite("rejects", "No space left on device")
    if trouble == "disk":
        monkeypatch.setattr(RejectsFile, "mark_replaced", mock.Mock(side_effect=full))
    loads.crm.trouble = broken
    others = [{**NEITHER, "mail": f"{i}@x.org"} for i in range(9)]
    with pytest.raises(ZeroDivisionError):
        loads.run(open_source([STALE, *others, NEW]))
    assert ("replaced" in loads.path().read_text()) == (trouble == "disk")
    said = "rejects cannot be written: No space left on device. The next try corrects which rows a resend leaves out."
    assert (said in caplog.messages) == (trouble == "disk")


def test_marks_stay_while_another_try_writes_to_the_file(tmp_path: Path) -> None:
    file = RejectsFile(tmp_path / "rejects.jsonl")
    file.write(Reject(1, STALE, "INVALID_VALUE", "n: no number").marked("mark", "a later row"))

    def mark_of(number: int) -> str:
        if number == 1:
            with file.path.open("a") as other:
                other.write('{"row": 2, "values": {}, "type": "T", "retryable": true}\n')
        return ""

    file.mark_replaced(mark_of, "a later row")
    assert "left out" in file.path.read_text().splitlines()[0]
    file.sync()


CHOSEN: dict[str, Callable[[list[int]], list[int]]] = {
    "last": lambda rows: rows[-1:],
    "first": lambda rows: rows[:1],
    "reject": lambda rows: rows if len(rows) == 1 else [],
}


def is_preferred(row: int, taken: list[int], duplicates: str) -> bool:
    """Whether a row is sent although another one was taken."""
    return not taken or (row < taken[0] if duplicates == "first" else duplicates == "last" and row > taken[0])


@settings(deadline=None, max_examples=80)
@given(
    given_rows=st.lists(st.tuples(st.sampled_from(["old@x.org", "bob@x.org"]), st.booleans()), max_size=6),
    duplicates=st.sampled_from(list(CHOSEN)),
    refusal=st.sampled_from(["", *REFUSALS]),
    after=st.sampled_from(["", "again"]),
    suffix=st.sampled_from(["jsonl", "csv"]),
)
def test_the_crm_has_the_row_that_is_preferred_of_those_that_it_accepts(
    given_rows: list[tuple[str, bool]], duplicates: str, refusal: str, after: str, suffix: str
) -> None:
    """The rows that the CRM refuses are given up, and all others are corrected and sent again."""
    rows = [{"mail": mail, "name": f"=R{i}", "n": "1" if valid else "x1"} for i, (mail, valid) in enumerate(given_rows)]
    wanted = {}
    for email in ("old@x.org", "bob@x.org"):
        own = {i: valid for i, (found, valid) in enumerate(given_rows) if found == email}
        chosen = CHOSEN[duplicates]([i for i, valid in own.items() if valid])
        is_refused = bool(refusal) and email == "old@x.org" and (refusal, after) != ("fail", "again")
        taken = [] if is_refused else chosen
        again = [i for i in own if i not in chosen and is_preferred(i, taken, duplicates)]
        if duplicates != "reject":
            again = [i for i in again if not own[i]]  # the others were skipped as duplicates
        for i in CHOSEN[duplicates](again) or taken:
            wanted[email] = f"=R{i}"
    with tempfile.TemporaryDirectory() as folder:
        loads = Loads(Path(folder), suffix)
        load_until_done(loads, rows, refusal, after, duplicates=duplicates)
        if refusal == "fail" and not after:
            return  # which rows were reached depends on the threads
        if loads.path().exists():
            lines = loads.path().read_text().replace("x1", "1").splitlines(keepends=True)
            kinds = ("INVALID_VALUE", "DUPLICATE_ROW", "_row,")
            loads.path().write_text("".join(line for line in lines if any(kind in line for kind in kinds)))
            with contextlib.suppress(SourceError):  # nothing is left
                loads.resend(duplicates=duplicates)
        assert loads.names() == wanted


def test_row_that_is_still_invalid_keeps_its_mark(loads: Loads) -> None:
    loads.run(open_source([STALE, NEW]))
    assert counted(loads.resend()) == {"rejected": 1}
    loads.path().write_bytes(loads.path("again").read_bytes())
    loads.correct("x1", "1")
    assert counted(loads.resend()) == {"skipped": 1}


def test_row_keeps_its_mark_while_its_record_is_unknown(loads: Loads) -> None:
    loads.run(open_source([STALE, NEW]))
    loads.correct("x1", "1")
    loads.correct("Old@x.org", "no address")
    assert counted(loads.resend()) == {"rejected": 1}
    loads.path().write_bytes(loads.path("again").read_bytes())
    loads.correct("no address", "old@x.org")
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


LEFT_OUT = (
    "1 row cannot be sent, and {} for the same record is valid: once that one is loaded, a resend of the rejects "
    "leaves it out."
)
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
    assert [text for text in map(one_line, caplog.messages) if "same record" in text] == notes
    assert "old" not in caplog.text.lower().replace("left out", "")
    assert sum(found.as_found().values()) == sum(found.as_found(skips_invalid=True).values()) == len(rows)
    kept = check(open_source(list(rows)), Mapper(MAPPING), ContactOptions(duplicates=duplicates, skips_invalid=True))
    assert list(kept.notes) == [note for note in notes if "a resend" not in note], "they are not in the rejects file"


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
    assert table.preferred_to(1) == (record_mark("by contact"), 2) and table.preferred_to(2) is None
    assert table.has_stale() and table.is_for_invalid(2)
    table.take_for_same("by id", "a third one")
    table.add(Row(3, {}), RowStatus.SEND, Contact("a third one", {}))
    table.mark_duplicates("reject")
    assert [row.status.name for row in table.rows()] == ["INVALID", "AMBIGUOUS", "AMBIGUOUS"]
    assert table.preferred_to(1) is None and not table.has_stale()
    table.close()


def test_row_of_an_earlier_load_is_preferred_whatever_happens_in_this_one() -> None:
    table = StagedRows()
    assert not table.has_stale() and not table.is_for_invalid(1)
    table.add_invalid(Row(1, {"n": "x"}), "n: no number", "same")
    table.add(Row(2, {}), RowStatus.SAME, Contact("same", {}))
    table.add_invalid(Row(3, {"n": "x"}, replaced=record_mark("earlier")), "n: no number", "earlier")
    table.add(Row(4, {}), RowStatus.SEND, Contact("earlier", {}))
    table.mark_duplicates("last")
    assert [table.preferred_to(number) for number in (1, 3)] == [
        (record_mark("same"), None), (record_mark("earlier"), None),
    ]  # fmt: skip
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
