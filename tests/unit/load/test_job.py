"""The whole load with an in-memory CRM: correct counts after any failure, for the next try to continue."""

from __future__ import annotations

import json
import logging
import threading
import uuid
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from upath import UPath

from crm_provider import errors as e
from crm_provider.errors.on_error import Action, Work
from crm_provider.errors.policy import Decision, ErrorPolicy, with_mode
from crm_provider.files.paths import CannotWrite
from crm_provider.load.job import LoadJob
from crm_provider.load.mapping.mapper import Mapper
from crm_provider.load.options import ContactOptions
from crm_provider.load.outcomes.file import OutcomesFile
from crm_provider.load.progress import REMOTE_EVERY
from crm_provider.load.rejects.file import RejectsFile
from crm_provider.load.report import LoadInterrupted, LoadStopped, LoadUnsaved, Summary, too_many_rejects
from crm_provider.load.rows import Outcome, SourceError
from crm_provider.load.state.checkpoint import Checkpoint, DoneRows, FileCheckpoints
from crm_provider.load.state.fingerprints import Fingerprints
from crm_provider.load.workers import CancelToken, RequestStats
from unit.fakes import FakeClock

from .fake_crm import FakeCrm, PlainMapper, Rows

DOWN = e.CrmServiceUnavailableError("down", status=503)
QUOTA = e.CrmLimitExceededError("Limit Exceeded", status=429)
REFUSED = e.CrmForbiddenError("no", status=403)
INVALID = e.CrmInvalidInputError("Invalid JSON body.", status=422)


def people(n: int, **more: Any) -> list[dict[str, Any]]:
    return [{"email": f"p{k}@x.org", "name": f"P{k}", **more} for k in range(1, n + 1)]


class Setting:
    """A load that can be tried several times."""

    def __init__(self, folder: Path, given: list[dict[str, Any]], **options: Any) -> None:
        self.folder, self.crm, self.source = folder, FakeCrm(), Rows(given)
        self.options = {"plan": "learned", **options} if options.get("mode", "upsert") == "upsert" else options
        self.on_error: dict[str, str] = {}
        self.epoch, self.cancel_token = 0, CancelToken()
        self.state: Any = None
        self.more: dict[str, Any] = {}

    @property
    def rejects_path(self) -> Path:
        return self.folder / "rejects.jsonl"

    def load(self, **changes: Any) -> LoadJob:
        self.cancel_token, self.crm.stats = CancelToken(), RequestStats()
        operator = with_mode("CrmLoadContactsOperator", self.options.get("mode", "upsert"))
        given = {
            "source": self.source,
            "mapper": PlainMapper(),
            "client": self.crm,
            "stats": self.crm.stats,
            "options": ContactOptions(**self.options),
            "policy": ErrorPolicy(self.on_error, work=Work.LOAD, operator=operator),
            "rejects": RejectsFile(self.rejects_path),
            "checkpoints": FileCheckpoints(self.folder / "checkpoint"),
            "fingerprints": Fingerprints(self.state, b"secret") if self.state else None,
            "epoch": self.epoch,
            "cancel_token": self.cancel_token,
        }
        return LoadJob(**{**given, **self.more, **changes})

    def run(self, **changes: Any) -> Summary:
        return self.load(**changes).run()

    def rejected(self) -> dict[int, dict[str, Any]]:
        if not self.rejects_path.exists():
            return {}
        lines = [json.loads(line) for line in self.rejects_path.read_text().splitlines()]
        return {line["row"]: line for line in lines}


@pytest.fixture
def setting(tmp_path: Path) -> Any:
    def make(given: list[dict[str, Any]], **options: Any) -> Setting:
        return Setting(tmp_path, given, **options)

    return make


def outcomes(summary: Summary) -> dict[str, int]:
    return {outcome.value: summary[outcome] for outcome in Outcome if summary[outcome]}


LIST = "11111111-1111-4111-8111-111111111111"
UNKNOWN_LIST = e.CrmSegmentationListNotFoundError("no list", status=404)
LOST = e.CrmTimeoutError("no response", outcome_known=False)


@pytest.mark.parametrize(
    ("trouble", "more", "unsure"),
    [
        ({"add": UNKNOWN_LIST}, {}, 3),
        ({"create": REFUSED}, {}, 0),
        ({"create": LOST, "ping": LOST}, {}, 3),
        ({"create": e.CrmTooManyRequestsError("wait", status=429)}, {"errors_in_a_row": 7}, 0),
        ({}, {}, 3),
    ],
)
def test_load_that_ends_early_counts_rows_that_may_have_been_written(
    trouble: dict[str, e.CrmError], more: dict[str, Any], unsure: int, setting: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    it = setting(people(3), list_ids=[LIST], **more)
    it.more["outcomes"] = OutcomesFile(it.folder / "outcomes.jsonl")
    it.crm.trouble = lambda call, email: trouble.get(call)
    full = None if trouble else CannotWrite("outcomes", "No space")
    with monkeypatch.context() as patched:
        patched.setattr(OutcomesFile, "write", mock.Mock(side_effect=full))
        with pytest.raises((LoadStopped, LoadUnsaved)) as end:
            it.run()
    summary = end.value.summary
    assert (summary.left, summary.unsure) == (3, unsure)
    assert ("3 left, of which up to 3 may have been written" in str(end.value)) == (unsure == 3)
    it.crm.trouble = lambda call, email: REFUSED
    with pytest.raises(LoadStopped) as again:
        it.run()
    assert again.value.summary.unsure == unsure, "also of the try before"
    it.crm.trouble = lambda call, email: None
    assert (it.run().unsure, len(it.crm.contacts)) == (0, 3)


# -- the happy path -----------------------------------------------------------------------------------------


def test_upsert_into_an_empty_crm(setting: Any) -> None:
    it = setting(people(30))
    summary = it.run()
    assert outcomes(summary) == {"created": 30}
    assert summary.left == 0
    assert summary.calls == 30
    assert sorted(it.crm.contacts) == sorted(row["email"] for row in it.source.given)
    assert it.source.read == 1
    assert not it.rejects_path.exists()


def test_rejects_without_a_file_are_only_counted(setting: Any) -> None:
    it = setting(people(3))
    it.crm.trouble = lambda call, email: INVALID if email == "p2@x.org" else None
    assert outcomes(it.run(rejects=None)) == {"created": 2, "rejected": 1}
    assert sorted(path.name for path in it.folder.iterdir()) == ["checkpoint"]


def test_empty_source(setting: Any) -> None:
    assert outcomes(setting([]).run()) == {}


def test_existing_contacts_are_updated_at_little_more_than_one_call_each(setting: Any) -> None:
    it = setting(people(100))
    for row in it.source.given:
        it.crm.add(row["email"], {"name": "old"})
    summary = it.run()
    assert outcomes(summary) == {"updated": 100}
    assert summary.calls <= 108  # rows that were in flight before anything was learned
    assert summary.calls_saved == 200 - summary.calls
    assert all(contact["attributes"]["name"] != "old" for contact in it.crm.contacts.values())


def test_calls_saved_are_never_negative(setting: Any) -> None:
    it = setting(people(60), plan="auto")
    it.crm.add("other@x.org")
    summary = it.run()
    assert outcomes(summary) == {"created": 60}
    assert summary.calls > 60
    assert summary.calls_saved == 0
    assert "saved" not in summary.line()


def test_compare_trusts_an_inconsistent_listing_only_for_the_contacts_it_showed(setting: Any) -> None:
    it = setting(people(30), plan="compare")
    for row in it.source.given:
        it.crm.add(row["email"], {"name": row["name"]})
    pages = 0

    def trouble(call: str, email: str) -> e.CrmError | None:
        nonlocal pages
        pages += call == "page"
        return e.CrmProtocolError("the listing repeats itself") if pages == 4 and call == "page" else None

    it.crm.trouble = trouble
    assert outcomes(it.run()) == {"unchanged": 20, "updated": 10}


def test_rows_loaded_before_cost_no_call(setting: Any, tmp_path: Path) -> None:
    it = setting(people(50))
    it.state = tmp_path / "state"
    it.run()
    it.epoch, calls = 1, len(it.crm.calls)
    it.source.given[7] = {"email": "p8@x.org", "name": "New"}
    assert outcomes(it.run()) == {"unchanged": 49, "updated": 1}
    assert len(it.crm.calls) - calls <= 2
    it.epoch = 2
    assert outcomes(it.run(full_refresh=True)) == {"updated": 50}


# -- rows that are not sent ---------------------------------------------------------------------------------


def test_all_or_nothing_sends_no_row(setting: Any) -> None:
    it = setting([{"email": "nobody"}, *people(3)], on_invalid="stop")
    with pytest.raises(SourceError, match=r"1 of 4 rows cannot be sent; nothing was sent.*\n- 1 row: email: no"):
        it.run()
    assert it.crm.calls == []


def test_dry_run_writes_nothing_and_reports_everything(setting: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    it = setting([{"email": "nobody"}, {"email": "nothing"}, *people(100)], plan="auto", dry_run=True)
    for row in it.source.given[2:]:
        it.crm.add(row["email"])
    summary = it.run()
    assert not {"create", "update", "add"} & set(it.crm.counts())
    assert summary.as_dict()["problems"] == {"email: no email address; correct it": 2}
    assert summary.as_dict()["plan"]["calls"] > 0
    assert "2 rows: email: no email address" in caplog.text
    assert not list(it.folder.iterdir())


def test_plan_that_takes_too_long_is_refused_before_the_first_write(setting: Any) -> None:
    it = setting(people(100))
    with pytest.raises(SourceError) as refused:
        it.run(time_limit=20)
    assert str(refused.value) == (
        "the load would take about 40 s (200 calls at 4.95 per second), but execution_timeout allows 20 s in all tries "
        "that are left; raise execution_timeout or retries, or load less"
    )
    assert it.crm.calls == []
    assert setting(people(100), dry_run=True).run(time_limit=20).too_long == str(refused.value)
    assert setting(people(100), dry_run=True).run(time_limit=41).too_long == ""
    assert outcomes(it.run(time_limit=41)) == {"created": 100}


# -- errors of rows -----------------------------------------------------------------------------------------


PHONE = "phone (column 'Telefone'): no phone number; correct it"

# rows, rejected rows, errors, problems, max_rejects: the message
TOO_MANY: dict[str, tuple[int, int, dict[str, int], dict[str, int], int | str]] = {
    "2 of 40 rows were rejected; max_rejects=1 allows 1. "
    "Most often INVALID_INPUT (2 rows): send a valid body with all required fields": (
        40, 2, {"INVALID_INPUT": 2}, {}, 1,
    ),
    "1 of 1 row was rejected; max_rejects=0 allows none. "
    f"Most often INVALID_VALUE (1 row): {PHONE}": (1, 1, {"INVALID_VALUE": 1}, {PHONE: 1}, 0),
    "9 of 40 rows were rejected; max_rejects='10%' allows 4. "
    f"Most often INVALID_VALUE (6 rows), 5 of them: {PHONE}. Also 3 INVALID_INPUT": (
        40, 9, {"INVALID_INPUT": 3, "INVALID_VALUE": 6}, {PHONE: 5, "name: too long; correct it": 2}, "10%",
    ),
    "2,000 of 5,000 rows were rejected; max_rejects=1000 allows 1,000. "
    "Most often DUPLICATE_ROW (2,000 rows): correct the rows in their source": (
        5_000, 2_000, {"DUPLICATE_ROW": 2_000}, {PHONE: 1}, 1_000,
    ),
    "1 of 40 rows was rejected; max_rejects=0 allows none. "
    "Most often INVALID_REQUEST (1 row): check the values and the arguments of the call": (
        40, 1, {"CONTACT_ALREADY_EXISTS": 30, "INVALID_REQUEST": 1}, {}, 0,  # 30 were skipped
    ),
    "6 of 40 rows were rejected; max_rejects=0 allows none. "
    "The errors of all rows: 5 INVALID_INPUT, 3 CONTACT_NOT_FOUND, 3 INVALID_VALUE": (
        40, 6, {"INVALID_VALUE": 3, "CONTACT_NOT_FOUND": 3, "INVALID_INPUT": 5}, {}, 0,  # 5 were skipped
    ),
    "1 of 40 rows was rejected; max_rejects=0 allows none. "
    "Most often HTTP_404 (1 row): check the base URL, and that the record exists": (
        40, 1, {"HTTP_404": 1}, {}, 0,
    ),
    "28 of 40 rows were rejected; max_rejects=0 allows none. Most often G (7 rows): "
    "correct the rows in their source. Also 6 F, 5 E, 4 D, 3 C, 2 B": (
        40, 28, {"A": 1, "B": 2, "C": 3, "D": 4, "E": 5, "F": 6, "G": 7}, {}, 0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("reported", TOO_MANY)
def test_too_many_rejects_are_reported_with_the_most_common_reason(reported: str) -> None:
    rows, rejected, errors, problems, allowed = TOO_MANY[reported]
    summary = Summary(rows=rows, counts={Outcome.REJECTED: rejected}, errors=errors, problems=problems)
    assert too_many_rejects(summary, ContactOptions(max_rejects=allowed)) == reported
    assert too_many_rejects(summary, ContactOptions(max_rejects=rejected)) is None


# -- errors of the run --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "action"),
    [(REFUSED, Action.FAIL), (QUOTA, Action.RETRY), (e.CrmProtocolError("odd"), Action.FAIL)],
)
def test_error_of_the_run_ends_it_and_the_next_try_continues(setting: Any, error: e.CrmError, action: Action) -> None:
    it = setting(people(60))
    it.crm.trouble = lambda call, email: error if int(email[1:-6]) > 30 else None
    with pytest.raises(LoadStopped) as stopped:
        it.run()
    summary = stopped.value.summary
    assert stopped.value.error is error
    assert stopped.value.decision.action is action
    assert outcomes(summary) == {"created": 30}
    assert summary.left == 30
    assert len(it.crm.calls) <= 30 + 8  # the first one ends the run; the others were in flight
    assert not it.rejected()
    it.crm.trouble = lambda call, email: None
    again = it.run()
    assert outcomes(again) == {"created": 60}
    assert again.resumed_at == 30


def test_many_server_errors_in_a_row_end_the_run_and_reject_nothing(setting: Any) -> None:
    it = setting(people(60))
    it.crm.trouble = lambda call, email: DOWN if int(email[1:-6]) > 20 else None
    with pytest.raises(LoadStopped) as stopped:
        it.run()
    assert stopped.value.decision == Decision.by_rule(Action.RETRY, "errors_in_a_row=10")
    assert outcomes(stopped.value.summary) == {"created": 20}
    assert not it.rejected()
    it.crm.trouble = lambda call, email: None
    assert outcomes(it.run()) == {"created": 60}


def test_error_while_reading_the_crm_ends_the_run(setting: Any) -> None:
    it = setting(people(10), plan="compare")
    it.crm.trouble = lambda call, email: REFUSED
    with pytest.raises(LoadStopped) as stopped:
        it.run()
    assert stopped.value.decision.action is Action.FAIL
    assert len(it.crm.calls) == 1


def test_bug_is_not_reported_as_an_outcome(setting: Any) -> None:
    it = setting(people(10))

    def trouble(call: str, email: str) -> e.CrmError | None:
        if email == "p5@x.org":
            raise KeyError("a bug")
        return None

    it.crm.trouble = trouble
    with pytest.raises(KeyError, match="a bug"):
        it.run()


# -- resuming -----------------------------------------------------------------------------------------------


def test_interrupted_load_continues(setting: Any) -> None:
    it, asked = setting(people(60)), threading.Event()

    def trouble(call: str, email: str) -> None:
        if email == "p20@x.org":
            it.cancel_token.set()
            asked.set()

    class Waits(PlainMapper):
        """Row 30 is not sent before row 20: its thread may start slowly."""

        def __call__(self, row: Any) -> Any:
            if row.number == 30 and it.crm.calls:  # not yet during the check of all rows
                assert asked.wait(60)
            return super().__call__(row)

    it.crm.trouble = trouble
    with pytest.raises(LoadInterrupted) as interrupted:
        it.run(mapper=Waits())
    done = interrupted.value.summary
    assert 20 <= done[Outcome.CREATED] <= 30
    it.crm.trouble = lambda call, email: None
    calls = len(it.crm.calls)
    summary = it.run()
    assert outcomes(summary) == {"created": 60}
    assert len(it.crm.calls) - calls == 60 - done[Outcome.CREATED]
    assert summary.calls == 60


class Cut(BaseException):
    """Airflow's timeout, or a signal."""


def test_load_cut_off_by_an_exception_saves_completed_rows(setting: Any) -> None:
    it = setting(people(60))

    class Rejects(RejectsFile):
        def write(self, reject: Any) -> None:
            raise Cut

    it.crm.trouble = lambda call, email: INVALID if email == "p20@x.org" else None
    with pytest.raises(Cut):
        it.run(rejects=Rejects(it.rejects_path), clock=FakeClock())  # rows in flight may take as long as they need
    it.crm.trouble = lambda call, email: None
    calls = len(it.crm.calls)
    assert outcomes(it.run()) == {"created": 60}
    assert len(it.crm.calls) - calls <= 60 - 19 + 1


@pytest.mark.parametrize("change", ["epoch", "input", "mode", "version"])
def test_changed_load_starts_anew(setting: Any, change: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    it = setting(people(20))
    it.crm.trouble = lambda call, email: REFUSED if email == "p15@x.org" else None
    with pytest.raises(LoadStopped):
        it.run()
    it.crm.trouble = lambda call, email: None
    if change == "epoch":
        it.epoch = 1
    elif change == "input":
        it.source.given[0]["name"] = "another"
    elif change == "mode":
        it.options = {"mode": "update"}
    else:
        saved = FileCheckpoints(it.folder / "checkpoint").load()
        assert isinstance(saved, Checkpoint)
        path = it.folder / "checkpoint"
        path.write_text(path.read_text().replace('"version": 1', '"version": 99'))
    it.run()
    assert "Starting from the first row" in caplog.text


def test_fingerprint_of_a_rejected_row_is_forgotten(setting: Any, tmp_path: Path) -> None:
    it = setting(people(3))
    it.state = tmp_path / "state"
    it.run()
    it.source.given[1]["name"] = "B"
    it.epoch = 1
    it.crm.trouble = lambda call, email: DOWN if email == "p2@x.org" else None
    assert outcomes(it.run()) == {"unchanged": 2, "rejected": 1}
    it.source.given[1]["name"] = "P2"  # as it was at first, but the state of the CRM is unknown
    it.epoch, it.crm.trouble = 2, lambda call, email: None
    assert outcomes(it.run()) == {"unchanged": 2, "updated": 1}


def test_refused_full_refresh_leaves_the_state_file_as_it_was(setting: Any, tmp_path: Path) -> None:
    it = setting(people(20))
    it.state = tmp_path / "state"
    it.run()
    it.epoch, it.crm.trouble = 1, lambda call, email: REFUSED
    with pytest.raises(LoadStopped):
        it.run(full_refresh=True)
    it.epoch, it.crm.trouble = 2, lambda call, email: None
    assert outcomes(it.run()) == {"unchanged": 20}


def test_lost_pod_leaves_no_fingerprint_of_a_record_that_it_has_changed(setting: Any) -> None:
    """Of a state file on an object store only those parts are left that were written before the pod was killed."""
    it = setting(people(2))
    it.state = UPath(f"memory://state-{uuid.uuid4().hex}/state")
    it.run()
    it.source.given[0]["name"], it.epoch = "changed", 1
    left: dict[str, bytes] = {}

    def kill(call: str, email: str) -> None:
        left.update({path.name: path.read_bytes() for path in it.state.parent.iterdir()})

    it.crm.trouble = kill
    it.run()
    for path in list(it.state.parent.iterdir()):
        path.unlink()
    for name, content in left.items():
        (it.state.parent / name).write_bytes(content)
    it.source.given[0]["name"], it.epoch = "P1", 2
    it.crm.trouble = lambda call, email: None
    assert outcomes(it.run()) == {"updated": 1, "unchanged": 1}
    assert it.crm.contacts["p1@x.org"]["attributes"]["name"] == "P1"


def test_fingerprints_are_synced_every_few_seconds(setting: Any, tmp_path: Path) -> None:
    """Rows that need no call: only the main thread advances the clock."""
    it, clock = setting([{"email": "nobody"}] * 8), FakeClock()
    synced: list[float] = []

    class Slow(RejectsFile):
        def write(self, reject: Any) -> None:
            clock.now += REMOTE_EVERY / 3
            super().write(reject)

    class Synced(Fingerprints):
        def sync(self) -> None:
            synced.append(clock.now)
            super().sync()

    started = clock.now
    it.run(rejects=Slow(it.rejects_path), fingerprints=Synced(tmp_path / "state", b"secret"), clock=clock)
    assert [moment - started for moment in synced] == [0, REMOTE_EVERY, 2 * REMOTE_EVERY]


def test_summary_is_small_and_json(setting: Any) -> None:
    summary = setting(people(5)).run().as_dict()
    assert json.loads(json.dumps(summary)) == summary
    assert summary["rows"] == sum(summary.get(outcome.value, 0) for outcome in Outcome)
    assert not any("@" in str(value) for value in summary.values())


# -- regressions --------------------------------------------------------------------------------------------

LIST = "11111111-1111-4111-8111-111111111111"


@pytest.mark.parametrize("is_cleared", [True, False])
def test_load_that_starts_again_lists_what_it_has_created(is_cleared: bool, setting: Any) -> None:
    """It was cleared, or its source has changed."""
    it = setting(people(1), mode="create", list_ids=(LIST,))
    it.crm.start_of_writes = lambda: datetime(2026, 3, 1, 12, tzinfo=timezone.utc)
    it.crm.trouble = lambda call, email: e.CrmForbiddenError("no", status=403) if call == "add" else None
    with pytest.raises(LoadStopped):
        it.run()
    it.crm.contacts["p1@x.org"]["createdAt"] = "2026-03-01T12:00:05.000Z"
    it.crm.trouble = lambda call, email: None
    it.source.given += [] if is_cleared else people(2)[1:]
    assert outcomes(it.run(epoch=int(is_cleared))) == {"updated": 1, **({} if is_cleared else {"created": 1})}
    assert it.crm.contacts["p1@x.org"]["segmentedListsIds"] == [LIST]


def test_try_stopped_while_reading_does_not_read_again(setting: Any) -> None:
    it = setting(people(40), plan="compare")
    for row in it.source.given:
        it.crm.add(row["email"], {"name": "old"})
    pages = 0

    def trouble(call: str, email: str) -> e.CrmError | None:
        nonlocal pages
        pages += call == "page"
        return QUOTA if call == "page" and pages >= 3 else None

    it.crm.trouble = trouble
    with pytest.raises(LoadStopped):
        it.run()
    assert outcomes(it.run()) == {"updated": 40}
    assert pages == 3


def test_exception_in_the_middle_of_an_update_keeps_the_last_checkpoint(
    setting: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Airflow's timeout is an exception that can be raised between any two instructions."""
    it, add = setting(people(30)), DoneRows.add

    def cut(self: DoneRows, number: int) -> None:
        add(self, number)
        if number == 20:
            raise Cut

    monkeypatch.setattr(DoneRows, "add", cut)
    with pytest.raises(Cut):
        it.run()
    monkeypatch.undo()
    saved = FileCheckpoints(it.folder / "checkpoint").load()
    assert saved is not None
    assert saved.rows == sum(count for name, count in saved.counts.items() if name != "refused") > 0
    summary = it.run()
    assert summary.left == 0
    assert summary[Outcome.CREATED] + summary[Outcome.UPDATED] == 30


@pytest.mark.parametrize("numbers", [(2, 3), (1, 1), (1, 3)])
def test_source_with_wrong_row_numbers_is_refused(setting: Any, numbers: tuple[int, ...]) -> None:
    class Odd(Rows):
        def rows(self) -> Any:
            for number, row in zip(numbers, super().rows(), strict=True):
                yield type(row)(number, row.values)

    it = setting(people(2))
    it.source = Odd(people(2))
    with pytest.raises(SourceError, match="a list numbers its rows wrongly"):
        it.run()


def test_value_of_another_type_rejects_only_a_row_that_sends_it(setting: Any) -> None:
    rows = [{"email": "p1@x.org", "picture": memoryview(b"x"), "lock": threading.Lock()}, {"email": "p2@x.org"}]
    assert outcomes(setting(rows).run(mapper=Mapper({"email": "email"}))) == {"created": 2}
    done = setting(rows).run(mapper=Mapper())
    assert outcomes(done) == {"rejected": 1, "created": 1}
    assert sorted(problem.partition(";")[0] for problem in done.problems) == [
        "lock: a value of type lock", "picture: a binary value",
    ]  # fmt: skip


def test_all_or_nothing_counts_ambiguous_rows(setting: Any) -> None:
    it = setting([*people(2), *people(1)], on_invalid="stop", duplicates="reject")
    with pytest.raises(SourceError, match=r"2 of 3 rows cannot be sent.*\n- 2 rows: another row has the same"):
        it.run()


def test_unwritable_file_is_reported_before_the_first_call(setting: Any) -> None:
    it = setting(people(5))
    (it.folder / "in_the_way").write_text("")
    with pytest.raises(OSError, match="in_the_way"):
        it.run(checkpoints=FileCheckpoints(it.folder / "in_the_way" / "checkpoint"))
    assert it.crm.calls == []


def test_rows_without_a_call_are_not_saved_one_by_one(setting: Any) -> None:
    it = setting(people(300), plan="compare")
    for row in it.source.given:
        it.crm.add(row["email"], {"name": row["name"]})
    saves = []

    class Counted(FileCheckpoints):
        def save(self, checkpoint: Checkpoint) -> None:
            saves.append(checkpoint.rows)
            super().save(checkpoint)

    it.run(checkpoints=Counted(it.folder / "checkpoint"), clock=FakeClock())
    assert len(saves) <= 8


@pytest.mark.parametrize("dry_run", [False, True])
def test_load_interrupted_while_checking_rows_is_no_success(setting: Any, dry_run: bool) -> None:
    it = setting(people(5), dry_run=dry_run)
    load = it.load()
    it.cancel_token.set()
    with pytest.raises(LoadInterrupted) as interrupted:
        load.run()
    assert (interrupted.value.summary.rows, it.crm.calls) == (0, []), "only the interruption is known"


@pytest.mark.parametrize("error", [INVALID, e.CrmInvalidParamsError("Invalid email.", status=400)])
def test_row_that_cannot_be_looked_up_is_rejected_and_the_others_continue(setting: Any, error: e.CrmError) -> None:
    """The sample before the first write covers all rows, including those that the CRM will reject."""
    it = setting(people(100), plan="auto")
    for row in it.source.given[:60]:
        it.crm.add(row["email"], {"name": "old"})
    bad = {row["email"] for row in it.source.given[::2]}
    it.crm.trouble = lambda call, email: error if email in bad else None
    summary = it.run()
    assert it.crm.counts()["get"] > 0, "a sample was taken"
    assert outcomes(summary) == {"created": 20, "updated": 30, "rejected": 50}
