"""From a typed error and a decision to the result in Airflow, with fakes of the task instance and its task."""

from __future__ import annotations

import ast
import logging
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from crm_provider import config
from crm_provider import errors as e
from crm_provider._compat import (
    AirflowFailException,
    AirflowRescheduleException,
    AirflowSensorTimeout,
    AirflowSkipException,
)
from crm_provider.errors.on_error import Action, Work
from crm_provider.errors.policy import DecidedBy, Decision, ErrorPolicy
from crm_provider.tasks import CrmRetryPolicy, outcome
from crm_provider.tasks.retry_policy import retry_delay

from .fakes import logged

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=timezone.utc)
SITE = "airflow.cfg [crm] on_error"


BY_DEFAULT = {action: Decision(action, DecidedBy.DEFAULT, "X") for action in Action}


class Frozen(datetime):
    """A clock that does not advance."""

    @classmethod
    def now(cls, tz: Any = None) -> datetime:
        assert tz is timezone.utc
        return NOW


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcome, "datetime", Frozen)


@dataclass
class TaskInstance:
    """The part of a task instance that the outcome uses."""

    try_number: int = 1
    max_tries: int | None = 0
    rescheduled_first: datetime | None = None
    pushed: dict[str, Any] = field(default_factory=dict)

    def get_first_reschedule_date(self, context: Any) -> datetime | None:
        assert context["ti"] is self
        return self.rescheduled_first

    def xcom_push(self, *, key: str, value: Any) -> None:
        self.pushed[key] = value


def ended(
    error: e.CrmError, action: Action, ti: TaskInstance | None = None, *, retry_policy: Any = None
) -> tuple[BaseException, TaskInstance]:
    """The exception that ends the task, and its task instance."""
    ti = ti or TaskInstance()
    task = SimpleNamespace(retries=ti.max_tries, **({"retry_policy": retry_policy} if retry_policy else {}))
    with pytest.raises(BaseException) as caught:  # noqa: PT011 -- Airflow's exceptions have no common base
        outcome.raise_for_decision(error, BY_DEFAULT[action], {"ti": ti, "task": task})
    return caught.value, ti


def not_found() -> e.CrmDealNotFoundError:
    return e.CrmDealNotFoundError(
        "Deal not found.", status=404, request_id="req-1", method="GET", path="/deals/{id}", outcome_known=True
    )


def throttled(seconds: float | None) -> e.CrmTooManyRequestsError:
    return e.CrmTooManyRequestsError("Too many requests.", status=429, retry_after=seconds)


def test_skip() -> None:
    error = not_found()
    raised, _ = ended(error, Action.SKIP)
    assert type(raised) is AirflowSkipException
    assert str(raised) == f"Skipped by default[X]. {error}"
    assert raised.__cause__ is error


@pytest.mark.parametrize(
    ("tries", "says"),
    [
        ((1, 3), "3 retries left"),
        ((3, 3), "1 retry left"),
        ((4, 3), "No retries left"),
        ((5, 3), "No retries left"),
        ((1, 0), "No retries left (set retries=)"),
        ((1, None), "No retries left (set retries=)"),
    ],
)
def test_retry_raises_the_typed_error_and_reports_the_remaining_tries(tries: tuple[int, int | None], says: str) -> None:
    error = e.CrmInternalServerError("An unexpected error occurred.", status=500)
    raised, _ = ended(error, Action.RETRY, TaskInstance(*tries))
    assert raised is error
    assert error.remark == says


def test_remark_is_added_to_earlier_remarks() -> None:
    error = e.CrmInternalServerError("An unexpected error occurred.", status=500)
    error.remark = "Tried 3 times in 10 s."
    ended(error, Action.RETRY)
    assert error.remark == "Tried 3 times in 10 s. No retries left (set retries=)"


@pytest.mark.parametrize(
    ("tries", "policy", "raises", "remark"),
    [
        # Airflow 3.1 and 3.2, or a custom task: nothing else keeps Airflow from a retry
        ((1, 2), None, AirflowFailException, "Not retried, by default[X]"),
        ((2, 2), None, AirflowFailException, "Not retried, by default[X]"),
        ((3, 2), None, e.CrmDealNotFoundError, "Not retried, by default[X]"),
        ((1, 0), None, e.CrmDealNotFoundError, "Not retried, by default[X]"),
        ((1, 2), CrmRetryPolicy(), e.CrmDealNotFoundError, "Not retried, by default[X]"),
        (
            (1, 2),
            object(),
            e.CrmDealNotFoundError,
            "The outcome is fail, by default[X], but the task's own retry policy decides",
        ),
        (
            (1, 0),
            object(),
            e.CrmDealNotFoundError,
            "The outcome is fail, by default[X], but the task's own retry policy decides",
        ),
    ],
)
def test_fail(tries: tuple[int, int], policy: Any, raises: type[Exception], remark: str) -> None:
    error = not_found()
    raised, _ = ended(error, Action.FAIL, TaskInstance(*tries), retry_policy=policy)
    assert type(raised) is raises
    assert error.remark == remark
    assert str(raised) == str(error)
    assert raised is error or raised.__cause__ is error


# -- a long wait --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [60.0, 61.5, 24 * 3600.0])
def test_long_server_delay_frees_the_slot(seconds: float, caplog: pytest.LogCaptureFixture) -> None:
    error = throttled(seconds)
    with caplog.at_level(logging.WARNING):
        raised, _ = ended(error, Action.RETRY)
    assert isinstance(raised, AirflowRescheduleException)
    assert raised.reschedule_date == NOW + timedelta(seconds=seconds)
    assert not error.remark
    [text] = [record.getMessage() for record in logged(caplog)]
    until = f"{raised.reschedule_date:%Y-%m-%d %H:%M:%S} UTC"
    assert f"Task:        slot freed until {until}; the try is kept" in text.splitlines()


def test_used_up_quota_is_a_long_wait_even_without_a_delay() -> None:
    raised, _ = ended(e.CrmLimitExceededError("Limit Exceeded", status=429), Action.RETRY)
    assert isinstance(raised, AirflowRescheduleException)
    assert raised.reschedule_date == NOW + timedelta(minutes=15)


@pytest.mark.parametrize(
    "error",
    [
        throttled(59.9),
        throttled(None),
        e.CrmServiceUnavailableError("Service Unavailable", status=503, retry_after=600.0),  # server error
    ],
)
def test_other_waits_are_ordinary_retries(error: e.CrmError) -> None:
    raised, _ = ended(error, Action.RETRY)
    assert raised is error


@pytest.mark.parametrize(
    ("since", "seconds", "rescheduled"),
    [
        (timedelta(hours=23), 3600.0, True),
        (timedelta(hours=23), 3600.5, False),
        (timedelta(hours=23, seconds=1), 3600.0, False),
        (timedelta(0), 24 * 3600.0, True),
        (timedelta(hours=-1), 24 * 3600.0, True),  # the clock was set back
        (timedelta(hours=-1), 24 * 3600.0 + 1, False),
        (None, 24 * 3600.0 + 1, False),
    ],
)
def test_task_uses_its_tries_one_day_after_its_first_reschedule(
    since: timedelta | None, seconds: float, rescheduled: bool
) -> None:
    ti = TaskInstance(rescheduled_first=NOW - since if since is not None else None)
    raised, _ = ended(throttled(seconds), Action.RETRY, ti)
    assert isinstance(raised, AirflowRescheduleException) is rescheduled


@pytest.mark.parametrize("action", [Action.SKIP, Action.FAIL])
def test_no_wait_without_a_retry(action: Action) -> None:
    raised, _ = ended(throttled(600.0), action)
    assert not isinstance(raised, AirflowRescheduleException)


# -- other ends ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("end", "raises"), [(outcome.fail_without_retry, AirflowFailException), (outcome.skip, AirflowSkipException)]
)
def test_end_without_a_crm_error(end: Any, raises: type[Exception]) -> None:
    cause = ValueError("why")
    for given in (cause, None):
        with pytest.raises(raises, match=r"^because$") as caught:
            end("because", cause=given)
        assert type(caught.value) is raises
        assert caught.value.__cause__ is given


OVER = "Sensor has timed out after 20 s."


@pytest.mark.parametrize(
    ("arguments", "raises", "level", "text", "ended"),
    [
        ({}, AirflowSensorTimeout, "ERROR", f"{OVER} The last result was: not yet.", "failed; the timeout of a"),
        (
            {"soft_fail": True},
            AirflowSkipException,
            "INFO",
            f"Skipped by soft_fail. {OVER} The last result was: not yet.",
            "skipped, by",
        ),
    ],
)
def test_timeout_of_a_sensor(
    arguments: Any, raises: type[Exception], level: str, text: str, ended: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO), pytest.raises(raises) as caught:
        outcome.sensor_timeout(20.0, last_result="not yet.", **arguments)
    assert type(caught.value) is raises
    assert str(caught.value) == text
    [said] = logged(caplog)
    assert said.levelname == level
    assert said.getMessage().splitlines()[:2] == [OVER, "Last result:  not yet."]
    assert f"Task:         {ended}" in said.getMessage()


def test_reschedule(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(AirflowRescheduleException) as caught:
        outcome.reschedule(NOW)
    assert caught.value.reschedule_date == NOW
    with caplog.at_level(logging.INFO):
        outcome.log_reschedule(NOW)
    assert [record.getMessage() for record in logged(caplog)] == [
        "Slot freed until 2026-05-04 12:00:00 UTC; the try is kept."
    ]


def test_airflows_exceptions_are_raised_in_one_place_only() -> None:
    package = Path(outcome.__file__).parents[1]
    raised = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Raise)
        and any(isinstance(part, ast.Name) and part.id.startswith("Airflow") for part in ast.walk(node))
    }
    assert raised == {"tasks/outcome.py"}


# -- the retry policy -----------------------------------------------------------------------------------------


def asked(policy: CrmRetryPolicy, error: BaseException, context: Any) -> tuple[str, str | None]:
    """The response to Airflow 3.3 after a try."""
    pytest.importorskip("airflow.sdk.definitions.retry_policy", reason="Airflow 3.3+")
    found = policy.evaluate(error, 1, 3, context)
    return found.action.name, found.reason


def decided(error: e.CrmError, decision: Decision, task: Any) -> dict[str, Any]:
    """The context of a try that a decision ended."""
    context: Any = {"ti": TaskInstance(), "task": task}
    with pytest.raises(e.CrmError):
        outcome.raise_for_decision(error, decision, context)
    return dict(context)


class Task:
    """A task with its own error policy and Airflow's defaults."""

    error_policy = ErrorPolicy({"DEAL_NOT_FOUND": "skip"})
    max_retry_delay = None


def test_retry_policy_follows_the_decision_about_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "on_error", lambda work: {})
    error = not_found()
    limit = Decision.by_rule(Action.RETRY, "max_errors_in_a_row=3")
    context = decided(error, limit, Task())
    assert asked(CrmRetryPolicy(), error, context) == ("RETRY", "DEAL_NOT_FOUND: retry, by max_errors_in_a_row=3")
    assert asked(CrmRetryPolicy(), not_found(), context) == (
        "FAIL",
        "DEAL_NOT_FOUND: skip, by on_error[DEAL_NOT_FOUND]",
    )


def test_retry_policy_without_a_decision_uses_task_then_itself_then_site(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "on_error", lambda work: {e.CrmNotFoundError: Action.RETRY})
    policy = CrmRetryPolicy({"DEAL_NOT_FOUND": "fail"})
    gone = e.CrmContactNotFoundError("gone")
    assert asked(policy, not_found(), {"task": Task()}) == ("FAIL", "DEAL_NOT_FOUND: skip, by on_error[DEAL_NOT_FOUND]")
    assert asked(policy, not_found(), {"task": SimpleNamespace()})[0] == "FAIL"
    assert asked(policy, gone, None) == ("RETRY", f"CONTACT_NOT_FOUND: retry, by {SITE}[CrmNotFoundError]")
    assert asked(policy, KeyError("a mistake"), None)[0] == "DEFAULT"


TASK_INSTANCE = SimpleNamespace(dag_id="d", task_id="t")
RUN = SimpleNamespace(logical_date=NOW)


@pytest.mark.parametrize(
    ("server", "task", "try_number", "seconds"),
    [
        pytest.param(None, {"retry_delay": 30}, 1, None, id="the server asks for none"),
        pytest.param(1, {"retry_delay": 30}, 1, 30, id="the task's is longer"),
        pytest.param(1, {"retry_delay": timedelta(seconds=30)}, 3, 30, id="without back-off all are the same"),
        pytest.param(1, {"retry_delay": 30, "retry_exponential_backoff": 1}, 3, 30, id="1 is no back-off"),
        pytest.param(40, {"retry_delay": 30}, 1, 40, id="the server's is longer"),
        pytest.param(40, {}, 1, 40, id="an unknown task"),
        pytest.param(10**6, {"retry_delay": 30}, 1, 86_400, id="at most a day"),
        pytest.param(40, {"retry_delay": 5, "max_retry_delay": 7}, 1, 7, id="at most max_retry_delay"),
        pytest.param(40, {"retry_delay": 30, "max_retry_delay": 7}, 1, 30, id="which limits back-off only"),
        # 30 x 2^2 = 120, and a part of 120 by the hash of "d#t#2026-05-04 12:00:00+00:00#3"
        pytest.param(1, {"retry_delay": 30, "retry_exponential_backoff": 2}, 3, 202, id="grown"),
        pytest.param(1, {"retry_delay": 30, "retry_exponential_backoff": True}, 3, 202, id="True is 2"),
        pytest.param(
            1,
            {"retry_delay": 30, "retry_exponential_backoff": 2, "max_retry_delay": timedelta(seconds=100)},
            3,
            100,
            id="grown to max_retry_delay",
        ),
        pytest.param(
            1, {"retry_delay": 30, "retry_exponential_backoff": 2}, 5000, 86_400, id="grown beyond any number"
        ),
        pytest.param(0.5, {"retry_delay": 0, "retry_exponential_backoff": 2}, 1, 1, id="grown from nothing"),
    ],
)
def test_longer_delay_of_task_and_server_wins(
    server: float | None, task: dict[str, Any], try_number: int, seconds: float | None
) -> None:
    error = e.CrmServiceUnavailableError("Try later.", status=503, retry_after=server)
    context = {"ti": TASK_INSTANCE, "dag_run": RUN, "task": SimpleNamespace(**task)}
    delay = retry_delay(error, try_number, context)
    assert delay == (None if seconds is None else timedelta(seconds=seconds))


# -- XCom and log -------------------------------------------------------------------------------------------


ENDED = {
    Action.SKIP: ("INFO", "skipped"),
    Action.RETRY: ("WARNING", "this try failed. 1 retry left"),
    Action.FAIL: ("ERROR", "failed; not retried, because a retry would fail in the same way"),
}


@pytest.mark.parametrize("action", ENDED)
def test_error_is_stored_as_a_small_xcom_and_one_log_record(action: Action, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        _, ti = ended(not_found(), action, TaskInstance(max_tries=1))
    assert ti.pushed == {
        "crm_error": {
            "error": "CrmDealNotFoundError",
            "type": "DEAL_NOT_FOUND",
            "status": 404,
            "message": "Deal not found.",
            "suggested_action": not_found().suggested_action,
            "request_id": "req-1",
            "action": action.value,
            "decided_by": "default",
            "origin": "default[X]",
        }
    }
    level, says = ENDED[action]
    assert [(record.levelname, record.getMessage().splitlines()) for record in logged(caplog)] == [
        (
            level,
            [
                "DEAL_NOT_FOUND (404) on GET /deals/{id}: Deal not found.",
                "What to do:  Check that the deal exists.",
                f"Task:        {says}",
                "Decided by:  default[X]",
                "Docs:        the page Operations of the provider's documentation, What to do, by error family",
                "Request id:  req-1",
            ],
        )
    ]


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (not_found(), ", because a retry would fail in the same way"),
        (throttled(None), ""),
        (e.CrmGatewayTimeoutError("Endpoint request timed out", status=504, outcome_known=False), ""),
    ],
    ids=["permanent", "throttled", "transient"],
)
def test_log_expects_the_same_failure_only_after_a_permanent_error(
    error: e.CrmError, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    ended(error, Action.FAIL)
    assert f" failed; not retried{why}\n" in caplog.text


# -- custom tasks -------------------------------------------------------------------------------------------


def own_task(monkeypatch: pytest.MonkeyPatch, site: dict[Any, Action], **task: Any) -> TaskInstance:
    ti = TaskInstance()
    monkeypatch.setattr("airflow.sdk.get_current_context", lambda: {"ti": ti, "task": SimpleNamespace(**task)})

    def lines(work: Work) -> dict[Any, Action]:
        assert work is Work.TASK
        return site

    monkeypatch.setattr(config, "on_error", lines)
    return ti


@pytest.mark.parametrize(
    ("on_error", "site", "raises", "origin"),
    [
        ({"DEAL_NOT_FOUND": "skip"}, {}, AirflowSkipException, "on_error[DEAL_NOT_FOUND]"),
        (None, {e.CrmDealNotFoundError: Action.SKIP}, AirflowSkipException, f"{SITE}[DEAL_NOT_FOUND]"),
        (
            {"CrmNotFoundError": "fail"},
            {e.CrmDealNotFoundError: Action.SKIP},
            e.CrmDealNotFoundError,
            "on_error[CrmNotFoundError]",
        ),
        (None, {}, e.CrmDealNotFoundError, "default[DEAL_NOT_FOUND]"),
    ],
)
def test_custom_task_ends_like_an_operator(
    monkeypatch: pytest.MonkeyPatch, on_error: Any, site: dict[Any, Action], raises: type[Exception], origin: str
) -> None:
    ti = own_task(monkeypatch, site)
    with pytest.raises(raises), outcome.crm_errors(on_error):
        raise not_found()
    assert ti.pushed["crm_error"]["origin"] == origin


@pytest.mark.parametrize(
    ("on_error", "raises"),
    [
        ({"DEAL_NOT_FOUND": "skip"}, AirflowSkipException),
        ({"DEAL_NOT_FOUND": "retry"}, e.CrmDealNotFoundError),
        ({"DEAL_NOT_FOUND": "fail"}, e.CrmDealNotFoundError),
        (None, e.CrmDealNotFoundError),
    ],
)
def test_outside_a_task_the_typed_error_or_skip_is_raised(
    monkeypatch: pytest.MonkeyPatch, on_error: Any, raises: type[Exception]
) -> None:
    monkeypatch.setattr(config, "on_error", lambda work: {})
    error = not_found()
    with pytest.raises(raises) as raised, outcome.crm_errors(on_error):
        raise error
    assert raised.value is error or raised.value.__cause__ is error


def test_task_without_xcoms_gets_none(monkeypatch: pytest.MonkeyPatch) -> None:
    ti = own_task(monkeypatch, {}, do_xcom_push=False)
    with pytest.raises(e.CrmDealNotFoundError), outcome.crm_errors():
        raise not_found()
    assert ti.pushed == {}


def test_other_errors_and_no_error_are_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    ti = own_task(monkeypatch, {})
    with outcome.crm_errors({"DEAL_NOT_FOUND": "skip"}):
        done = True
    with pytest.raises(KeyError), outcome.crm_errors({"DEAL_NOT_FOUND": "skip"}):
        raise KeyError("a mistake in the task")
    assert done
    assert ti.pushed == {}


def test_invalid_on_error_line_is_reported_before_the_first_call(monkeypatch: pytest.MonkeyPatch) -> None:
    own_task(monkeypatch, {})
    with pytest.raises(ValueError, match="is invalid"), outcome.crm_errors({"CrmProtocolError": "skip"}):
        pytest.fail("never reached")


def test_decorated_function_ends_like_the_block_and_an_async_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    own_task(monkeypatch, {})
    decorate: Any = outcome.crm_errors({"DEAL_NOT_FOUND": "skip"})

    @decorate
    def plain() -> None:
        raise not_found()

    async def coroutine() -> None:
        """Would run after the block."""

    with pytest.raises(AirflowSkipException):
        plain()
    with pytest.raises(TypeError, match=r"write 'with crm_errors\(\):' in it"):
        decorate(coroutine)
