"""The smaller parts of a load: options, the preflight check, counts, rows in flight, and texts for people."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from crm_provider import errors as e
from crm_provider.client.remote_contact import RemoteContact
from crm_provider.load import preflight
from crm_provider.load.kinds.remote import TrySetup
from crm_provider.load.kinds.remote_contacts import RemoteContacts
from crm_provider.load.options import ContactOptions, rejects_allowed
from crm_provider.load.preflight import SHOWN_PROBLEMS, InputDigest, check
from crm_provider.load.progress import (
    EVERY,
    INTERVAL,
    REMOTE_EVERY,
    SENT_ROWS,
    CheckpointTimer,
    Position,
    ProgressLog,
    RowCounts,
    line,
)
from crm_provider.load.report import Summary
from crm_provider.load.rows import Contact, InvalidRow, Outcome, Problem, Row, SourceError, duration
from crm_provider.load.state.checkpoint import Checkpoint, DoneRows
from crm_provider.load.state.temp_tables import RowStatus, StagedRows
from crm_provider.load.workers import Cancelled, CancelToken
from unit.fakes import FakeClock

from .fake_crm import FakeCrm, PlainMapper, Rows

# -- options ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"mode": "upset"}, r"mode='upset' is unknown; did you mean 'upsert'\?"),
        ({"plan": "cheap"}, r"plan='cheap' is unknown; known: auto, learned"),
        ({"duplicates": None}, r"duplicates=None is unknown"),
        ({"on_invalid": "rejects"}, r"did you mean 'reject'\?"),
        ({"mode": "create", "plan": "learned"}, r"plan='learned' is for mode='upsert'"),
        ({"max_rejects": -1}, r"max_rejects=-1 must be a number of rows"),
        ({"max_rejects": "many"}, r"or a share such as"),
        ({"max_rejects": "101%"}, r"max_rejects='101%'"),
        ({"max_rejects": True}, r"max_rejects=True"),
        ({"errors_in_a_row": 0}, r"errors_in_a_row is 0; give at least 1"),
        ({"errors_in_a_row": "10"}, r"errors_in_a_row must be a whole number, at least 1, but is of type str"),
    ],
)
def test_wrong_option_is_named(options: dict[str, Any], text: str) -> None:
    with pytest.raises(SourceError, match=text):
        ContactOptions(**options)


def test_lists_must_be_ids() -> None:
    assert ContactOptions().checked_lists() == ()
    with pytest.raises(SourceError, match=r"list_ids\[0\] is text of 10 characters, not a UUID"):
        ContactOptions(list_ids=("Newsletter",)).checked_lists()


@pytest.mark.parametrize(
    ("allowed", "rows", "count"),
    [(0, 10, 0), (5, 2, 5), ("1%", 2500, 25), ("1%", 99, 0), (" 2.5 % ", 1000, 25), ("100%", 7, 7), ("12", 5, 12)],
)
def test_rejects_allowed(allowed: int | str, rows: int, count: int) -> None:
    assert rejects_allowed(allowed, rows) == count


# -- the preflight check and its table ----------------------------------------------------------------------


def fates(given_rows: list[str], **options: Any) -> list[RowStatus]:
    found = check(Rows([{"email": email} for email in given_rows]), PlainMapper(), ContactOptions(**options))
    try:
        return [item.status for item in found.staged.rows()]
    finally:
        found.staged.close()


@given(st.lists(st.sampled_from(["a@x", "A@x", "b@x", "c@x", "nobody"]), max_size=12))
def test_each_email_has_at_most_one_row_that_is_sent(emails: list[str]) -> None:
    keys = [email.lower() for email in emails]
    for duplicates in ("last", "first", "reject"):
        found = fates(emails, duplicates=duplicates)
        assert [status is RowStatus.INVALID for status in found] == [key == "nobody" for key in keys]
        for key in set(keys) - {"nobody"}:
            places = [n for n, other in enumerate(keys) if other == key]
            sent = [n for n in places if found[n] is RowStatus.SEND]
            if duplicates == "reject":
                assert sent == (places if len(places) == 1 else [])
            else:
                assert sent == [places[-1] if duplicates == "last" else places[0]]


def test_input_fingerprint_covers_what_matters() -> None:
    def fingerprint(rows: list[dict[str, Any]], **options: Any) -> str:
        return check(Rows(rows), PlainMapper(), ContactOptions(**options)).fingerprint

    rows = [{"email": "a@x", "name": "A"}, {"email": "b@x", "name": "B"}]
    same = fingerprint(rows)
    assert fingerprint([dict(row) for row in rows]) == same
    assert fingerprint(rows, plan="compare", max_rejects=5) == same
    others = [
        fingerprint(rows[::-1]),
        fingerprint(rows[:1]),
        fingerprint([{**rows[0], "name": "B"}, rows[1]]),
        fingerprint(rows, mode="create"),
        fingerprint(rows, duplicates="first"),
        fingerprint(rows, list_ids=("x",)),
    ]
    assert len({same, *others}) == 7


VALUES = st.sampled_from(
    ["", "a", "\x1f", "a\x1fb", "1", 1, True, None, b"a", "2 rows: a", "('a',)", "columns ('a',)", "\ud800"]
)
NAMES = st.sampled_from([(), ("a",), ("b",), ("a", "b"), ("b", "a")])


@st.composite
def some_rows(draw: st.DrawFn) -> list[Row]:
    return [
        Row(1, {name: draw(VALUES) for name in draw(NAMES)}, draw(st.sampled_from([None, None, "ragged"])))
        for _ in range(draw(st.integers(0, 5)))
    ]


def digest_of(rows: list[Row]) -> str:
    digest = InputDigest(b"options")
    for row in rows:
        values = list(row.values.values())
        is_text = bool(values) and all(isinstance(value, str) and "\x1f" not in value for value in values)
        assert digest.add(row) == (row, "\x1f".join(values) if is_text else None)
    return digest.as_text()


@pytest.mark.parametrize("at_once", [0, 3, 1 << 14])
@given(one=some_rows(), other=some_rows())
@example(one=[Row(1, {"a": "\x1f", "b": ""})], other=[Row(1, {"a": "", "b": "\x1f"})])
@example(one=[Row(1, {"a": "a", "b": "a"})] * 2, other=[Row(1, {"a": "a\x1fa", "b": "a\x1fa"})])
@example(one=[Row(1, {"a": 1})], other=[Row(1, {"a": "1"})])
@example(one=[Row(1, {"a": "a"}, "ragged")], other=[Row(1, {"a": "a"})])
@example(one=[Row(1, {"a": "a", "b": "b"})], other=[Row(1, {"b": "a", "a": "b"})])
def test_only_equal_rows_have_the_same_fingerprint(at_once: int, one: list[Row], other: list[Row]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preflight, "_HASHED_AT_ONCE", at_once)
        assert digest_of(one) == digest_of([row._replace(values=dict(row.values)) for row in one])
        assert (digest_of(one) == digest_of(other)) == (repr(one) == repr(other))


def test_the_fingerprint_of_the_input_is_the_same_in_each_process_and_version() -> None:
    rows = [{"email": "a@x", "name": "A"}, {"email": "b@x", "name": "B"}, {"email": "c@x", "name": 5}]
    hashed = b"optionscolumns ('email', 'name')2 rows: a@x\x1fA\x1fb@x\x1fB\x1f(None, 'c@x', 5)"
    assert digest_of([Row(n, row) for n, row in enumerate(rows, 1)]) == hashlib.sha256(hashed).hexdigest()[:32]


def test_texts_are_hashed_when_there_are_enough_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "_HASHED_AT_ONCE", 3)
    rows = [Row(n, {"a": text}) for n, text in enumerate(["ab", "cd", "ef"], 1)]
    hashed = b"optionscolumns ('a',)2 rows: ab\x1fcd\x1f1 rows: ef\x1f"
    assert digest_of(rows) == hashlib.sha256(hashed).hexdigest()[:32]


def test_a_view_of_memory_counts_as_its_bytes() -> None:
    row, text = InputDigest(b"").add(Row(1, {"picture": memoryview(b"p")}))
    assert row == Row(1, {"picture": b"p"}) and text is None


def test_problems_are_counted_by_kind_and_shown_in_order() -> None:
    found = check(Rows([{"email": "nobody"}] * 3 + [{"email": "a@x"}]), PlainMapper(), ContactOptions())
    assert found.problem_lines() == ["3 rows: email: no email address; correct it (first: row 1)"]
    assert (found.rows, found.counts[RowStatus.SEND], found.counts[RowStatus.INVALID]) == (4, 1, 3)


def test_most_common_problems_are_shown_with_the_number_of_other_kinds() -> None:
    class Picky(PlainMapper):
        def __call__(self, row: Row) -> Contact:
            raise InvalidRow(Problem(f"field {row.values['n']}", "n", "odd", f"see line {row.number}"))

    kinds = [n for n in range(SHOWN_PROBLEMS + 3) for _ in range(1 + (n == 7))]
    found = check(Rows([{"n": n} for n in kinds]), Picky(), ContactOptions())
    lines = found.problem_lines()
    assert len(lines) == SHOWN_PROBLEMS + 1
    assert lines[0] == "2 rows: field 7 (column 'n'): odd; for example: see line 8 (first: row 8)"
    assert lines[-1] == "... and 3 more kinds of problems"


def test_mapping_sees_the_columns_before_the_first_row() -> None:
    class Strict(PlainMapper):
        def check_columns(self, columns: tuple[str, ...]) -> None:
            raise SourceError(f"no column of {columns} will do")

    source = Rows([{"email": "a@x"}], columns=("email",))
    with pytest.raises(SourceError, match="will do"):
        check(source, Strict(), ContactOptions())
    assert source.read == 0


def test_source_that_fails_leaves_nothing_open() -> None:
    class Broken(Rows):
        def rows(self) -> Iterator[Row]:
            yield Row(1, {"email": "a@x"})
            raise SourceError("line 3 is not text")

    with pytest.raises(SourceError, match="line 3"):
        check(Broken([]), PlainMapper(), ContactOptions())


def test_table_returns_any_value_unchanged() -> None:
    from datetime import date
    from decimal import Decimal

    table, values = StagedRows(), {"d": date(2026, 1, 1), "n": Decimal("1.50"), "b": b"\x00", "x": None}
    table.add(Row(1, values, "odd"), RowStatus.SEND, Contact("a@x", {}))
    (item,) = table.rows()
    assert item.row == Row(1, values, "odd")


def test_sample_is_the_same_for_the_same_rows() -> None:
    table = StagedRows()
    for n in range(1, 1001):
        table.add(Row(n, {}), RowStatus.SEND if n % 2 else RowStatus.SAME, Contact(f"{n}@x", {}))
    picked = [item.row.number for item in table.mixed(seed=1000)][:20]
    assert picked == [item.row.number for item in table.mixed(seed=1000)][:20]
    assert len(set(picked)) == 20
    assert all(n % 2 for n in picked)
    assert max(picked) - min(picked) > 300  # from the whole source


# -- sampling the CRM ---------------------------------------------------------------------------------------


def sampler_of(
    crm: FakeCrm, rows: list[dict[str, Any]], done: DoneRows | None = None, cancel_token: CancelToken | None = None
) -> RemoteContacts:
    preflight = check(Rows(rows), PlainMapper(), ContactOptions())
    setup = TrySetup(
        client=crm,  # type: ignore[arg-type]
        options=ContactOptions(),
        mapper=PlainMapper(),
        preflight=preflight,
        done=done or DoneRows(),
        cancel_token=cancel_token or CancelToken(),
    )
    return RemoteContacts(setup)


def test_sampled_contacts_are_cached() -> None:
    crm = FakeCrm()
    crm.add("a@x", {"name": "A", "other": 1})
    crm.add("b@x", {"name": "old"})
    found = sampler_of(crm, [{"email": f"{c}@x", "name": c.upper()} for c in "abc"])
    assert found.sample(2).rows == 2
    sample = found.sample(10)  # more of them
    assert (sample.rows, sample.existing, sample.same) == (3, 2, 1)
    assert len(crm.calls) == 3
    assert found.contact_cache.get("a@x") == RemoteContact("a@x", {"name": "A"}, id="id-a@x")
    missing = found.contact_cache.get("c@x")
    assert missing is not None
    assert not missing.exists


@pytest.mark.parametrize(("path", "is_kept"), [("/contacts/{email}", True), ("/segments", False)])
def test_sampled_contact_is_unknown_after_a_bare_404(path: str, is_kept: bool) -> None:
    crm = FakeCrm(trouble=lambda call, email: e.CrmNotFoundError("odd", type="HTTP_404", status=404, path=path))
    found = sampler_of(crm, [{"email": "a@x"}])
    if is_kept:
        assert found.sample(1).rows == 1
        assert found.contact_cache.get("a@x") is None
    else:
        with pytest.raises(e.CrmNotFoundError):
            found.sample(1)


def test_done_rows_are_not_sampled() -> None:
    crm = FakeCrm()
    found = sampler_of(crm, [{"email": f"{c}@x"} for c in "abc"], done=DoneRows(1, [3]))
    assert found.rows == 1
    assert found.sample(10).rows == 1


def test_sampling_can_be_interrupted() -> None:
    crm, cancel_token = FakeCrm(), CancelToken()
    crm.add("a@x")
    cancel_token.set()
    found = sampler_of(crm, [{"email": "a@x"}], cancel_token=cancel_token)
    with pytest.raises(Cancelled):
        found.read_all(lambda count, records: None)
    with pytest.raises(Cancelled):
        found.sample(1)
    with pytest.raises(Cancelled):
        check(Rows([{"email": "a@x"}]), PlainMapper(), ContactOptions(), cancel_token=cancel_token)


# -- the counts ---------------------------------------------------------------------------------------------


def test_row_is_counted_once() -> None:
    row_counts = RowCounts()
    row_counts.enter(1, Outcome.CREATED)
    with pytest.raises(ValueError, match="row 1 ended twice"):
        row_counts.enter(1, Outcome.UPDATED)


def test_checkpoint_holds_all_counts() -> None:
    row_counts = RowCounts()
    assert row_counts.checkpoint(epoch=1, fingerprint="f", calls=0, seconds=0.0) == Checkpoint(
        epoch=1, fingerprint="f", counts={"refused": 0}
    )
    for number in (1, 2, 5):
        row_counts.enter(number, Outcome.REJECTED, error="INVALID_INPUT", sent=True)
    row_counts.enter(7, Outcome.CREATED, sent=True)
    row_counts.enter(8, Outcome.REJECTED, error="INVALID_VALUE")
    assert (row_counts.unsaved, row_counts.unsaved_sent) == (5, 4)
    assert row_counts.checkpoint(epoch=2, fingerprint="g", calls=5, seconds=1.5) == Checkpoint(
        epoch=2, fingerprint="g", done_upto=2, done_above=(5, 7, 8), calls=5, seconds=1.5,
        counts={"rejected": 4, "created": 1, "refused": 3}, errors={"INVALID_INPUT": 3, "INVALID_VALUE": 1},
    )  # fmt: skip


def test_next_try_continues_the_counts() -> None:
    before = Checkpoint(
        epoch=1, fingerprint="f", done_upto=2, counts={"created": 2}, errors={"X": 1}, calls=4, seconds=1.5
    )
    row_counts = RowCounts(before)
    assert (row_counts.refused, row_counts.unsaved, row_counts.unsaved_sent) == (0, 0, 0)
    row_counts.enter(3, Outcome.SKIPPED, error="X", sent=True)
    assert row_counts.checkpoint(epoch=1, fingerprint="f", calls=2, seconds=0.25) == Checkpoint(
        epoch=1, fingerprint="f", done_upto=3, calls=6, seconds=1.75, errors={"X": 2},
        counts={"created": 2, "skipped": 1, "refused": 1},
    )  # fmt: skip


def test_checkpoint_is_a_copy_of_the_counts() -> None:
    row_counts = RowCounts()
    row_counts.enter(1, Outcome.CREATED, sent=True)
    row_counts.enter(3, Outcome.REJECTED, error="INVALID_INPUT", sent=True)
    saved = row_counts.checkpoint(epoch=2, fingerprint="f", calls=5, seconds=1.5)
    again = RowCounts(saved)
    assert (again.counts, again.errors, again.refused) == (row_counts.counts, row_counts.errors, 1)
    assert (again.calls_before, again.seconds_before, again.resumed_at) == (5, 1.5, 2)
    assert [n in again.done for n in (1, 2, 3)] == [True, False, True]
    again.enter(2, Outcome.CREATED)
    assert again.checkpoint(epoch=2, fingerprint="f", calls=1, seconds=1).done_upto == 3
    assert saved.done_upto == 1


def test_checkpoint_is_saved_after_enough_rows_or_seconds() -> None:
    clock, row_counts, saves = FakeClock(), RowCounts(), []
    saver = CheckpointTimer(lambda: saves.append(clock.now), every=lambda: EVERY, clock=clock)
    saver.tick(row_counts)
    assert not saves  # no change
    for n in range(1, 101):
        row_counts.enter(n, Outcome.UNCHANGED)
        saver.tick(row_counts)
    assert not saves  # rows without a call are cheap to read again
    clock.now += EVERY
    saver.tick(row_counts)
    assert len(saves) == 1
    for n in range(101, 101 + SENT_ROWS):
        assert len(saves) == 1
        row_counts.enter(n, Outcome.CREATED, sent=True)
        saver.tick(row_counts)
    assert len(saves) == 2


def test_every_sent_row_is_saved_at_once_if_none_may_be_lost() -> None:
    clock, row_counts, saves = FakeClock(), RowCounts(), []
    saver = CheckpointTimer(lambda: saves.append(1), every=lambda: REMOTE_EVERY, clock=clock, at_once=True)
    row_counts.enter(1, Outcome.UNCHANGED)
    saver.tick(row_counts)
    assert not saves
    for n in (2, 3):
        row_counts.enter(n, Outcome.DELETED, sent=True)
        saver.tick(row_counts)
        saver.tick(row_counts)
        assert len(saves) == n - 1


def test_counts_continue_from_the_checkpoint_of_an_earlier_try() -> None:
    before = Checkpoint(epoch=1, fingerprint="f", done_upto=3, counts={"created": 2, "rejected": 1, "refused": 1})
    row_counts = RowCounts(before)
    assert (row_counts.rows, row_counts.refused, row_counts.resumed_at, row_counts.is_whole) == (3, 1, 3, True)
    row_counts.done.add(4)
    assert not row_counts.is_whole, "an exception was raised in the middle of an update"
    assert RowCounts().checkpoint(epoch=1, fingerprint="f", calls=0, seconds=0.0).counts == {"refused": 0}


@pytest.mark.parametrize("outcome", Outcome)
@pytest.mark.parametrize("sent", [True, False])
def test_call_that_ended_a_row_without_success_is_counted(outcome: Outcome, sent: bool) -> None:
    row_counts = RowCounts()
    row_counts.enter(1, outcome, sent=sent)
    assert row_counts.refused == (sent and outcome in (Outcome.REJECTED, Outcome.SKIPPED))
    assert (row_counts.unsaved, row_counts.unsaved_sent, row_counts.errors) == (1, int(sent), {})


def test_checkpoints_are_rare_if_rejects_must_reach_a_store_first() -> None:
    clock, row_counts, saves = FakeClock(), RowCounts(), []
    saver = CheckpointTimer(lambda: saves.append(clock.now), every=lambda: REMOTE_EVERY, clock=clock)
    for n in range(1, 3 * SENT_ROWS):
        row_counts.enter(n, Outcome.CREATED, sent=True)
        saver.tick(row_counts)
    assert not saves
    clock.now += REMOTE_EVERY
    saver.tick(row_counts)
    saver.tick(row_counts)
    assert len(saves) == 1
    assert (row_counts.unsaved, row_counts.unsaved_sent) == (0, 0)


# -- texts for people ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (89.4, "89 s"), (90, "2 min"), (5399, "1 h 30 min"), (20_000, "5 h 33 min")]
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_progress_line() -> None:
    at = Position(done=50, rows=200, counts={Outcome.CREATED: 40, Outcome.REJECTED: 10}, calls=60, calls_left=900)
    assert line(at, 4.5, 5.0) == (
        "50 of 200 rows (25.0%): 40 created, 0 updated, 0 unchanged, 0 skipped, 10 rejected, 0 suppressed; "
        "4.50 calls/s (90% of the budget); about 3 min left"
    )
    assert line(at, 0.5, 5.0).endswith("; 0.50 calls/s (10% of the budget); about 30 min left")
    assert line(at, 0.0, 5.0).endswith("waiting")
    assert line(replace(at, done=0, rows=0, counts={}), 0.0, 5.0).startswith("0 of 0 rows (100%): 0 created, ")


def test_progress_is_logged_at_a_steady_interval(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    clock, calls = FakeClock(), [0]
    progress = ProgressLog(5.0, clock)
    for _ in range(20):
        clock.now += INTERVAL / 10
        calls[0] += 15
        progress.tick(lambda: Position(done=1, rows=2, counts={}, calls=calls[0], calls_left=10))
    assert [record.message.count("5.00 calls/s") for record in caplog.records] == [1, 1]


def test_reading_progress_is_logged_at_the_same_interval(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    clock = FakeClock()
    progress = ProgressLog(5.0, clock)
    for n in range(1, 21):
        clock.now += INTERVAL / 10
        progress.tick_reading(count=150 * n, records="contacts", calls=15 * n)
    rate = 15 / (INTERVAL / 10)
    assert caplog.messages == [f"Read {n} contacts of the CRM; {rate:.2f} calls/s." for n in (1500, 3000)]


def test_summary_text() -> None:
    summary = Summary(rows=3, counts={Outcome.CREATED: 2}, calls=4, calls_saved=1, seconds=100, left=1, budget_used=0.5)
    assert summary.line() == ("3 rows: 2 created, 1 left; 4 calls in 2 min (50% of the budget), 1 saved by the plan")
