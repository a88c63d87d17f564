"""Results of rows: counted, rejected, remembered, or sent again, in which order, and what ends the run."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone
from types import SimpleNamespace
from typing import Any

import pytest

from crm_provider import errors as e
from crm_provider.errors.on_error import Action, Work
from crm_provider.errors.policy import Decision, ErrorPolicy, with_mode
from crm_provider.load.kinds.deletions import DeleteOptions
from crm_provider.load.options import ContactOptions, LoadOptions, Mode
from crm_provider.load.outcomes.formats import RowOutcome
from crm_provider.load.progress import RowCounts
from crm_provider.load.rejects.formats import Reject
from crm_provider.load.row_results import SENDS_OF_A_ROW, RowResultHandler
from crm_provider.load.rows import Contact, EarlierCreation, Outcome, Row
from crm_provider.load.state.temp_tables import RowStatus, StagedRow
from crm_provider.load.workers import InFlightRow, RowResult, SentRow


class Notes:
    """A stand-in for the rejects file and the fingerprints."""

    def __init__(self) -> None:
        self.rejects: list[Reject] = []
        self.prints: list[tuple[str, str]] = []

    def write(self, reject: Reject) -> None:
        self.rejects.append(reject)

    def remember(self, contact: Contact) -> None:
        self.prints.append(("+", contact.email))

    def forget(self, contact: Contact) -> None:
        self.prints.append(("-", contact.email))


class Scene:
    """Row results with real counts."""

    def __init__(
        self, on_error: dict[str, str] | None = None, *, keeps: bool = True, mode: Mode = "upsert", **options: Any
    ) -> None:
        self.notes, self.row_counts = Notes(), RowCounts()
        self.handler = RowResultHandler(
            counts=self.row_counts,
            options=ContactOptions(mode=mode, **options),
            policy=ErrorPolicy(on_error or {}, work=Work.LOAD, operator=with_mode("CrmLoadContactsOperator", mode)),
            rejects=self.notes if keeps else None,  # type: ignore[arg-type]
            fingerprints=self.notes if keeps else None,  # type: ignore[arg-type]
            is_for_invalid=lambda number: number < 3,
        )

    def launch(self, number: int) -> InFlightRow:
        row = Row(number, {"email": f"p{number}@x.org"})
        self.handler.launched += 1
        return InFlightRow(row, Contact(row.values["email"], {}), None, order=self.handler.launched)

    def send(self, number: int, came: Outcome | e.CrmError | None, *, called: bool = True) -> InFlightRow:
        in_flight = self.launch(number)
        self.land(in_flight, came, called=called)
        return in_flight

    def land(self, in_flight: InFlightRow, came: Outcome | e.CrmError | None, *, called: bool = True) -> None:
        error = came if isinstance(came, e.CrmError) else None
        sent = SentRow(came, called) if isinstance(came, Outcome) else None
        self.handler.handle(RowResult(in_flight, sent, error))

    @property
    def counts(self) -> dict[str, int]:
        return {outcome.value: count for outcome, count in self.row_counts.counts.items() if count}

    @property
    def rejected(self) -> list[int]:
        return [reject.number for reject in self.notes.rejects]


def down() -> e.CrmError:
    return e.CrmServiceUnavailableError("down", status=503, request_id="req-1")


def throttled(seconds: float | None = None) -> e.CrmError:
    return e.CrmTooManyRequestsError("slow down", status=429, retry_after=seconds)


def invalid() -> e.CrmError:
    return e.CrmInvalidInputError("Invalid JSON body.", status=422, request_id="req-2")


# -- rows that were sent ------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", [Outcome.CREATED, Outcome.UPDATED, Outcome.UNCHANGED])
@pytest.mark.parametrize("called", [True, False])
def test_successful_row_is_counted_and_remembered(outcome: Outcome, called: bool) -> None:
    it = Scene()
    it.send(7, outcome, called=called)
    assert it.counts == {outcome.value: 1}
    assert 7 in it.row_counts.done
    assert it.row_counts.unsaved_sent == called
    assert it.notes.prints == [("+", "p7@x.org")]


def test_suppressed_row_is_not_remembered() -> None:
    it = Scene()
    it.send(1, Outcome.SUPPRESSED)
    assert it.counts == {"suppressed": 1}
    assert it.notes.prints == []


def test_interrupted_row_stays_to_be_sent() -> None:
    it = Scene()
    it.send(1, None)
    assert it.counts == {} and it.notes.prints == [] and not it.handler.resend and it.handler.stop is None


@pytest.mark.parametrize("keeps", [True, False])
def test_rejected_row_is_counted_and_written(keeps: bool) -> None:
    it = Scene(keeps=keeps)
    it.send(3, invalid())
    assert it.counts == {"rejected": 1}
    assert it.row_counts.errors == {"INVALID_INPUT": 1}
    assert it.row_counts.unsaved_sent == it.row_counts.refused == 1
    if keeps:
        [reject] = it.notes.rejects
        assert reject == Reject(
            number=3,
            values={"email": "p3@x.org"},
            type="INVALID_INPUT",
            message="Invalid JSON body.",
            suggested_action=invalid().suggested_action,
            request_id="req-2",
            retryable=False,
        )
        assert it.notes.prints == [("-", "p3@x.org")]


def test_skipped_row_is_counted() -> None:
    it = Scene({"INVALID_INPUT": "skip"})
    it.send(3, invalid())
    assert it.counts == {"skipped": 1}
    assert it.row_counts.errors == {"INVALID_INPUT": 1}
    assert it.row_counts.unsaved_sent == it.row_counts.refused == 1
    assert it.rejected == [] and it.notes.prints == [("-", "p3@x.org")]


@pytest.mark.parametrize("status", [409, None])
def test_existing_contact_is_no_error_of_a_create(status: int | None) -> None:
    it = Scene(mode="create")
    it.send(1, e.CrmContactAlreadyExistsError("Contact already exists.", status=status))
    assert it.counts == {"unchanged": 1}
    assert it.row_counts.errors == {}
    assert it.row_counts.unsaved_sent == (status is not None), "without a status it is known without a call"
    assert it.notes.prints == [("+", "p1@x.org")]


@pytest.mark.parametrize(
    "error", [e.CrmForbiddenError("no", status=403), e.CrmStageNotFoundError("Stage not found.", status=404)]
)
def test_error_of_the_run_ends_it_and_the_first_one_is_reported(error: e.CrmError) -> None:
    it = Scene()
    it.send(1, error)
    it.send(2, e.CrmForbiddenError("later", status=403))
    assert it.handler.stop is not None
    assert it.handler.stop[0] is error
    assert it.handler.stop[1].action is Action.FAIL
    assert it.counts == {} and it.rejected == []


# -- sent again ---------------------------------------------------------------------------------------------


def test_throttled_row_keeps_its_order_and_counts_its_sends() -> None:
    it = Scene(errors_in_a_row=3)
    in_flight = it.send(1, throttled())
    assert list(it.handler.resend) == [in_flight]
    assert in_flight.sends == 2
    it.land(it.handler.resend.popleft(), throttled())
    assert in_flight.sends == 3
    assert it.handler.stop is None
    it.land(it.handler.resend.popleft(), throttled())
    assert it.handler.stop is not None
    assert it.handler.stop[1].action is Action.RETRY
    assert it.counts == {}


@pytest.mark.parametrize("response", [Outcome.CREATED, invalid(), "skipped"])
def test_response_resets_the_count_of_throttled_rows(response: Any) -> None:
    it = Scene({"CONTACT_ALREADY_EXISTS": "skip"}, errors_in_a_row=2)
    it.send(1, throttled())
    it.send(2, e.CrmContactAlreadyExistsError("there", status=409) if response == "skipped" else response)
    it.send(3, throttled())
    assert it.handler.stop is None
    it.send(4, throttled())
    assert it.handler.stop is not None


def test_retried_row_is_sent_three_times_and_does_not_count_as_throttled() -> None:
    it = Scene({"CONTACT_NOT_FOUND": "retry"}, mode="update", errors_in_a_row=1)
    in_flight = it.launch(1)
    for _ in range(SENDS_OF_A_ROW - 1):
        it.land(in_flight, e.CrmContactNotFoundError("Contact not found.", status=404))
        assert it.handler.resend.popleft() is in_flight
    it.land(in_flight, e.CrmContactNotFoundError("Contact not found.", status=404))
    assert it.rejected == [1] and not it.handler.resend and it.handler.stop is None


# -- server errors ------------------------------------------------------------------------------------------


def test_row_with_a_server_error_is_held_until_a_later_one_gets_a_response() -> None:
    it = Scene()
    first = it.launch(1)
    assert not bool(it.handler.held)
    it.send(2, down())
    assert bool(it.handler.held)
    it.land(first, Outcome.CREATED)  # launched before the other failed: proves nothing about the time after
    assert it.rejected == [] and bool(it.handler.held)
    it.send(3, Outcome.CREATED)
    assert it.rejected == [2] and not bool(it.handler.held)
    assert it.notes.rejects[0].retryable
    assert it.notes.prints == [("+", "p1@x.org"), ("-", "p2@x.org"), ("+", "p3@x.org")]


@pytest.mark.parametrize("came", [Outcome.CREATED, invalid()])
def test_response_to_an_earlier_row_proves_nothing_about_later(came: Any) -> None:
    it = Scene()
    first, second = it.launch(1), it.launch(2)
    it.land(first, down())
    it.land(second, came)
    assert bool(it.handler.held) and 1 not in it.rejected


def test_refusal_proves_that_the_server_works() -> None:
    it = Scene()
    it.send(1, down())
    it.send(2, invalid())
    assert it.rejected == [1, 2]


def test_only_rows_that_failed_before_the_proof_are_rejected() -> None:
    it = Scene()
    it.send(1, down())
    second = it.launch(2)
    it.send(3, down())
    it.land(second, Outcome.CREATED)
    assert it.rejected == [1] and bool(it.handler.held)


def test_many_server_errors_in_a_row_end_the_run_and_blame_no_row() -> None:
    it = Scene(errors_in_a_row=3)
    errors = [down() for _ in range(4)]
    for number, error in enumerate(errors[:2], start=1):
        it.send(number, error)
    assert it.handler.stop is None
    it.send(3, errors[2])
    assert it.handler.stop is not None
    error, decision = it.handler.stop
    assert error is errors[2]
    assert (decision.action, decision.origin) == (Action.RETRY, "errors_in_a_row=3")
    it.send(4, Outcome.CREATED)
    it.handler.reject_held()
    assert it.rejected == [] and it.counts == {"created": 1}


def test_held_rows_are_rejected_at_the_end_of_the_source() -> None:
    it = Scene()
    it.send(1, down())
    it.send(2, down())
    it.handler.reject_held()
    assert it.rejected == [1, 2] and not bool(it.handler.held)


def test_failed_probe_call_ends_the_run() -> None:
    it = Scene()
    it.send(1, down())
    last = down()
    it.handler.server_is_down(last)
    assert it.handler.stop is not None
    error, decision = it.handler.stop
    assert error is last
    assert decision == Decision.by_rule(Action.RETRY, "the CRM is failing, so no row is at fault")
    it.handler.reject_held()
    assert it.rejected == []


@pytest.mark.parametrize(
    ("options", "known", "says"),
    [
        (ContactOptions(), True, "no response in time."),
        (ContactOptions(), False, "no response in time. Whether it was written is not known."),
        (DeleteOptions(), False, "no response in time. Whether it was deleted is not known."),
    ],
)
def test_rejects_file_says_if_a_write_may_have_happened(options: LoadOptions, known: bool, says: str) -> None:
    it = Scene()
    it.handler._options = options
    it.send(1, e.CrmTimeoutError("no response in time.", outcome_known=known))
    it.handler.reject_held()
    assert it.notes.rejects[0].message == says


# -- rows that are not sent ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "outcome"),
    [(RowStatus.DUPLICATE, "skipped"), (RowStatus.SUPPRESSED, "suppressed"), (RowStatus.SAME, "unchanged")],
)
def test_rows_that_need_no_call(status: RowStatus, outcome: str) -> None:
    it = Scene()
    it.handler.without_call(StagedRow(Row(4, {"email": "a@x.org"}), status))
    assert it.counts == {outcome: 1} and 4 in it.row_counts.done
    assert it.row_counts.unsaved_sent == 0 and it.row_counts.errors == {} and it.rejected == []


@pytest.mark.parametrize(
    ("status", "type_", "message"),
    [
        (RowStatus.INVALID, "INVALID_VALUE", "No number"),
        (
            RowStatus.STALE,
            "INVALID_VALUE",
            "No number. A later row for the same record is valid; if this one is sent again, it is left out.",
        ),
        (RowStatus.AMBIGUOUS, "DUPLICATE_ROW", "Several rows have this email (duplicates='reject')."),
    ],
)
def test_invalid_rows_are_rejected(status: RowStatus, type_: str, message: str) -> None:
    it = Scene()
    made = EarlierCreation(None, certain=True, earlier_load=True)
    row = Row(4, {"email": "nobody"}, made=made, replaced="mark")
    it.handler.without_call(StagedRow(row, status, problem="No number"))
    assert it.counts == {"rejected": 1} and it.row_counts.errors == {type_: 1}
    assert it.row_counts.unsaved_sent == it.row_counts.refused == 0
    assert it.notes.rejects == [
        Reject(
            number=4,
            values={"email": "nobody"},
            type=type_,
            message=message,
            suggested_action="correct the row in its source",
            request_id=None,
            retryable=False,
            made=made,
            replaced="" if status is RowStatus.INVALID else "mark",
        )
    ]
    assert it.notes.prints == []


# -- the outcomes file --------------------------------------------------------------------------------------


class OutcomeNotes:
    """A stand-in for the outcomes file."""

    def __init__(self) -> None:
        self.outcomes: list[RowOutcome] = []

    def write(self, outcome: RowOutcome) -> None:
        self.outcomes.append(outcome)


def noting(on_error: dict[str, str] | None = None, **options: Any) -> tuple[Scene, list[RowOutcome]]:
    """A scene with an outcomes file, and what is written to it."""
    it, notes = Scene(on_error, **options), OutcomeNotes()
    it.handler._outcomes = notes  # type: ignore[assignment]
    return it, notes.outcomes


P1 = {"email": "p1@x.org"}
IDS = {"contact_id": "c-1"}


def test_row_that_was_left_out_is_remembered_if_it_matters_for_a_row_that_cannot_be_sent() -> None:
    it = Scene({"INVALID_INPUT": "skip"})
    it.send(1, Outcome.SKIPPED)
    it.send(2, e.CrmInvalidInputError("No.", status=422))
    it.send(3, Outcome.SKIPPED)
    it.send(4, Outcome.UPDATED)
    assert it.row_counts.skipped == {1, 2}


def noted_first(outcome: Outcome, **about: Any) -> RowOutcome:
    return RowOutcome(number=1, outcome=outcome, values=P1, **about)


def test_outcome_of_a_sent_row_has_its_ids_and_message() -> None:
    it, noted = noting()
    it.handler.handle(RowResult(it.launch(1), SentRow(Outcome.UPDATED, ids=IDS, message="No list."), None))
    assert noted == [noted_first(Outcome.UPDATED, message="No list.", ids=IDS)]


@pytest.mark.parametrize(
    ("on_error", "outcome"), [({"INVALID_INPUT": "skip"}, Outcome.SKIPPED), ({}, Outcome.REJECTED)]
)
@pytest.mark.parametrize(("written", "ids"), [(SimpleNamespace(ids=IDS), IDS), (SimpleNamespace(), {}), (None, {})])
def test_outcome_of_a_failed_row_has_its_error_and_what_was_written(
    on_error: dict[str, str], outcome: Outcome, written: Any, ids: dict[str, str]
) -> None:
    it, noted = noting(on_error)
    it.land(replace(it.launch(1), written=written), invalid())
    assert noted == [
        noted_first(outcome, error_type="INVALID_INPUT", message="Invalid JSON body.", request_id="req-2", ids=ids)
    ]


def test_outcome_of_an_existing_contact_says_why_it_is_unchanged() -> None:
    it, noted = noting(mode="create")
    it.send(1, e.CrmContactAlreadyExistsError("Contact p1@x.org exists.", status=409, request_id="req-3"))
    assert noted == [noted_first(Outcome.UNCHANGED, message="Contact [value] exists.", request_id="req-3")]
    facts = noted_first(Outcome.SKIPPED, message="No p1@x.org.").facts(datetime.now(timezone.utc))
    assert facts["message"] == "No p1@x.org.", "a text of the load itself"


@pytest.mark.parametrize(
    ("status", "outcome", "message"),
    [
        (RowStatus.DUPLICATE, Outcome.SKIPPED, "Another row is sent for the same record (duplicates)."),
        (RowStatus.SUPPRESSED, Outcome.SUPPRESSED, "The address is on the suppression list."),
        (RowStatus.SAME, Outcome.UNCHANGED, "The same row was loaded before (state_path)."),
    ],
)
def test_outcome_of_a_row_without_a_call_says_why(status: RowStatus, outcome: Outcome, message: str) -> None:
    it, noted = noting()
    it.handler.without_call(StagedRow(Row(1, P1), status))
    assert noted == [noted_first(outcome, message=message)]


def test_invalid_row_has_no_ids_in_its_outcome() -> None:
    it, noted = noting()
    it.handler.without_call(StagedRow(Row(1, P1), RowStatus.INVALID, problem="no email address"))
    assert noted == [noted_first(Outcome.REJECTED, error_type="INVALID_VALUE", message="no email address")]


@pytest.mark.parametrize("status", [RowStatus.INVALID, RowStatus.STALE])
def test_invalid_row_is_skipped_if_on_error_says_so(status: RowStatus) -> None:
    it, noted = noting(skips_invalid=True)
    it.handler.without_call(StagedRow(Row(1, P1), status, problem="no email address"))
    assert noted == [noted_first(Outcome.SKIPPED, error_type="INVALID_VALUE", message="no email address")]
    assert it.row_counts.errors == {"INVALID_VALUE": 1}


def test_reject_names_its_kind_and_the_record_that_may_exist() -> None:
    it = Scene()
    it.handler._kind = "deals"
    made = SimpleNamespace(certain=True)
    it.land(replace(it.launch(1), made=made), invalid())  # type: ignore[arg-type]
    [reject] = it.notes.rejects
    assert (reject.kind, reject.made) == ("deals", made)


def test_error_that_every_row_would_get_ends_the_run() -> None:
    it = Scene()
    it.handler._of_the_run = lambda error: f"a constant: {error.type}"
    it.send(1, invalid())
    assert it.handler.stop is not None
    assert it.handler.stop[1] == Decision.by_rule(Action.FAIL, "a constant: INVALID_INPUT")


def test_first_twenty_rejects_are_samples_without_a_rejects_file() -> None:
    it = Scene(keeps=False)
    for number in range(1, 22):
        it.send(number, invalid())
    assert [reject.number for reject in it.handler.samples] == list(range(1, 21))


def test_only_full_stops_are_removed_before_the_doubt_about_a_write() -> None:
    it = Scene()
    it.send(1, e.CrmTimeoutError("no response to X.", outcome_known=False))
    it.handler.reject_held()
    assert it.notes.rejects[0].message == "no response to X. Whether it was written is not known."
