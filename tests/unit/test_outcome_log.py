"""The record at the end of a task's log, and tracebacks without irrelevant frames."""

from __future__ import annotations

import logging
import sys
import time
import traceback
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import FunctionType, SimpleNamespace
from typing import Any

import pytest

from crm_provider import config
from crm_provider import errors as e
from crm_provider._compat import AirflowFailException, AirflowSkipException
from crm_provider.errors.on_error import Action
from crm_provider.errors.policy import DecidedBy, Decision, ErrorPolicy
from crm_provider.extract.extractor import ExtractUnsaved
from crm_provider.files.paths import CannotWrite
from crm_provider.hooks.crm import CrmHook
from crm_provider.load.report import LoadStopped, Summary
from crm_provider.load.rows import NoSuchFile, SourceError
from crm_provider.operators.base import CrmOperator
from crm_provider.operators.load import CrmRetryRejectsOperator
from crm_provider.tasks import crm_errors, outcome
from crm_provider.tasks.outcome import DOCS, error_record, record, short_traceback
from crm_provider.tasks.templates import MissingValue
from crm_provider.ui import PREFIX as PAGE
from crm_provider.values.redaction import PREFIX, WIDTH

from .fakes import logged

KEEPS_FRAMES = pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 adds the frames again")


# -- log record ---------------------------------------------------------------------------------------------


def test_record_has_a_line_for_each_known_fact() -> None:
    facts = [("What to do", "Correct it."), ("Also", ""), ("Request id", None), ("Task", "failed")]
    assert record("It happened.", facts).splitlines() == [
        "It happened.",
        "What to do:  Correct it.",
        "Task:        failed",
    ]
    assert record("It happened.") == "It happened."


def test_docs_have_the_section_that_a_record_names() -> None:
    place, _, heading = DOCS.partition(", ")
    text = (Path(__file__).resolve().parents[2] / "docs" / "operations.md").read_text("utf-8")
    assert place == "the page Operations of the provider's documentation"
    assert text.startswith("# Operations\n")
    assert f"\n## {heading}\n" in text


def test_lines_fit_the_log_view_and_paths_are_not_wrapped() -> None:
    path = "/var/crm/" + "x-" * WIDTH
    lines = record("word " * 40, [("Where", f"{'word ' * 20}{path}")]).splitlines()
    assert [line for line in lines if len(line) > WIDTH] == [f"        {path}"]
    assert len(lines[0]) <= WIDTH - PREFIX < len(lines[1])
    assert all(line.startswith(("word", "Where:  word", "        ")) for line in lines)


@pytest.mark.parametrize(
    ("base", "link"),
    [
        ("https://airflow.example.com/a/", "https://airflow.example.com/a/crm/policy?operator=CrmDealStageSensor"),
        (None, None),
    ],
)
def test_record_of_an_error_with_all_facts(base: str | None, link: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config.conf, "get", lambda *_, **__: base)
    assert config.PAGE_PREFIX == PAGE
    error = e.CrmTimeoutError(
        "no response", method="POST", path="/contacts", request_id="r-1", outcome_known=False, attempts=5, elapsed=5.04,
        remark="look in the CRM first",
    )  # fmt: skip
    decision = Decision(Action.RETRY, DecidedBy.TASK, "TIMEOUT")
    task = SimpleNamespace(error_policy=ErrorPolicy(operator="CrmDealStageSensor"))
    assert error_record(error, ended="this try failed", decision=decision, task=task).splitlines() == [
        "TIMEOUT on POST /contacts: no response.",
        "What to do:  Try again later, or raise the timeout in the connection's extra.",
        "Also:        The write may or may not have happened. Tried 5 times in 5.0 s. Look in the CRM first.",
        "Task:        this try failed",
        "Decided by:  on_error[TIMEOUT]",
        *([f"Policy:      {link}"] if link else []),
        "Docs:        the page Operations of the provider's documentation, What to do, by error family",
        "Request id:  r-1",
    ]


DEAL = "DEAL_NOT_FOUND (404) on GET /deals/{id}: Deal not found."


@pytest.mark.parametrize(
    ("action", "policy", "level", "says"),
    [
        (Action.RETRY, None, "ERROR", "this try failed. No retries left (set retries=)"),
        (Action.FAIL, object(), "ERROR", "failed; whether it is retried is up to the task's own retry policy"),
    ],
)
def test_record_of_a_task_that_ends_with_an_error(
    action: Action,
    policy: Any,
    level: str,
    says: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(config.conf, "get", lambda *_, **__: "https://airflow.example.com/")
    ti = SimpleNamespace(max_tries=0, try_number=1, xcom_push=lambda **_: None)
    task = SimpleNamespace(retry_policy=policy, error_policy=ErrorPolicy(operator="CrmDealStageSensor"))
    error = e.CrmDealNotFoundError("Deal not found.", status=404, method="GET", path="/deals/{id}", outcome_known=True)
    decision = Decision(action, DecidedBy.TASK, "DEAL_NOT_FOUND")
    assert caught(outcome.raise_for_decision, error, decision, {"ti": ti, "task": task}) is error
    [said] = logged(caplog)
    assert (said.levelname, said.getMessage().splitlines()) == (
        level,
        [
            DEAL,
            "What to do:  Check that the deal exists.",
            f"Task:        {says}",
            "Decided by:  on_error[DEAL_NOT_FOUND]",
            "Policy:      https://airflow.example.com/crm/policy?operator=CrmDealStageSensor",
            "Docs:        the page Operations of the provider's documentation, What to do, by error family",
        ],
    )


def test_remark_follows_an_earlier_one_as_a_sentence() -> None:
    error = e.CrmDealNotFoundError("Deal not found.", remark="Tried by X.")
    ti = SimpleNamespace(max_tries=0, try_number=1, xcom_push=lambda **_: None)
    caught(outcome.raise_for_decision, error, Decision(Action.FAIL, DecidedBy.TASK, "Y"), {"ti": ti, "task": None})
    assert error.remark == "Tried by X. Not retried, by on_error[Y]"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("the disk is full", "The disk is full."),
        ("no column X.", "No column X."),
        (".env is missing..", ".env is missing."),
    ],
)
def test_error_of_ours_is_logged_as_a_sentence(text: str, sentence: str, caplog: pytest.LogCaptureFixture) -> None:
    error = ValueError(text)
    assert caught(outcome.fail, error, {"ti": SimpleNamespace(max_tries=2, try_number=1), "task": None}) is error
    assert caplog.messages == [f"{sentence}\nTask:  this try failed. 2 retries left"]


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="Windows cannot change the time zone of a process")
def test_times_are_in_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        with monkeypatch.context() as patched:
            patched.setenv("TZ", "Asia/Tokyo")
            time.tzset()
            moscow = timezone(timedelta(hours=3))
            assert outcome.moment(datetime(2026, 5, 4, 15, 0, tzinfo=moscow)) == "2026-05-04 12:00:00 UTC"
    finally:
        time.tzset()


# -- tracebacks ---------------------------------------------------------------------------------------------


OWN = (__file__, str(Path(outcome.__file__).parents[1]))
"""This file and the package: code between them, such as that of a tool that changes functions, does not count."""


def frames(error: BaseException) -> list[str]:
    """The function names of a traceback, outermost first."""
    shown = traceback.extract_tb(error.__traceback__)
    return [frame.name for frame in shown if frame.filename.startswith(OWN)]


def step(rest: list[Any]) -> None:
    if not rest:
        raise KeyError("the last step")
    rest[0](rest[1:])


def raised_through(*modules: str) -> BaseException:
    """An error that went through a function of each module."""
    first, *rest = [FunctionType(step.__code__, {"__name__": module}) for module in modules]
    return caught(first, rest)


def shown_modules(error: BaseException) -> list[str]:
    """The modules of the frames below :func:`caught`, outermost first."""
    modules = [frame.f_globals["__name__"] for frame, _ in traceback.walk_tb(error.__traceback__)]
    assert modules[0] == __name__
    return modules[1:]


@pytest.mark.parametrize(
    ("modules", "shown"),
    [
        (["dags.mine", "crm_provider.operators.base", "crm_provider.tasks.outcome", "dags.mine"], ["dags.mine"] * 2),
        (
            ["crm_provider.sensors.base", "airflow.sdk", "crm_provider.transfers.sql", "pandas"],
            ["airflow.sdk", "pandas"],
        ),
        (["dags.mine", "crm_provider.client.http", "requests"], ["dags.mine"]),
        (["dags.mine", "crm_provider.operators_of_others", "requests"], ["dags.mine"]),
        (["crm_provider_of_others.client", "crm_provider.hooks.crm"], ["crm_provider_of_others.client"]),
    ],
)
def test_frames_of_the_package_and_those_below_its_client_are_left_out(modules: list[str], shown: list[str]) -> None:
    error = raised_through(*modules)
    lines = dict(traceback.walk_tb(error.__traceback__))
    outcome.leave_out_own_frames(error)
    assert shown_modules(error) == shown
    assert dict(traceback.walk_tb(error.__traceback__)).items() <= lines.items(), "each frame with its line"


@pytest.mark.parametrize(
    ("suppressed", "shown"), [(False, ["dags.mine"]), (True, ["dags.mine", "crm_provider.client.http"])]
)
def test_frames_of_an_earlier_error_are_left_out_if_python_shows_it(suppressed: bool, shown: list[str]) -> None:
    earlier, cause, error = (raised_through("dags.mine", "crm_provider.client.http") for _ in range(3))
    error.__cause__, cause.__context__ = cause, earlier
    cause.__suppress_context__ = suppressed
    outcome.leave_out_own_frames(error)
    assert [shown_modules(each) for each in (error, cause, earlier)] == [["dags.mine"], ["dags.mine"], shown]


def caught(function: Any, *args: Any) -> BaseException:
    with pytest.raises(BaseException) as error:  # noqa: PT011 -- any
        function(*args)
    return error.value


def refuses(kind: type[Exception] = e.CrmDealNotFoundError) -> None:
    raise kind("Deal not found.")


class Refuses(CrmOperator):
    """An operator in a user's DAG."""

    kind: type[Exception] = e.CrmDealNotFoundError

    def call(self, context: Any) -> dict[str, Any]:
        refuses(self.kind)
        return {}


class CannotStore(Refuses):
    kind = ExtractUnsaved


def failed_task(task: CrmOperator) -> BaseException:
    ti = SimpleNamespace(max_tries=0, try_number=1, xcom_push=lambda **_: None)
    return caught(type(task).execute.__wrapped__, task, {"ti": ti, "task": task})


@KEEPS_FRAMES
@pytest.mark.parametrize(
    ("task", "shown"),
    [
        (Refuses(task_id="refused"), ["caught", "call", "refuses"]),
        (CrmRetryRejectsOperator(task_id="no_value", rejects="r.jsonl", crm_conn_id=MissingValue("None")), ["caught"]),
        (CannotStore(task_id="full"), ["caught", "call", "refuses"]),
    ],
    ids=repr,
)
def test_operator_traceback_shows_only_the_frames_of_the_dag_author(task: CrmOperator, shown: list[str]) -> None:
    assert frames(failed_task(task)) == shown


def test_all_frames_are_kept_at_debug_level(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger=outcome.__name__):
        assert "execute" in frames(failed_task(Refuses(task_id="refused")))


@KEEPS_FRAMES
def test_hook_call_ends_the_traceback_of_its_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_CRM_WITHOUT_KEY", '{"conn_type": "crm"}')
    hook = CrmHook()
    hook._client = SimpleNamespace(get_contact=None)  # type: ignore[assignment]
    missing = caught(CrmHook("crm_without_key").get_contact, "ada@example.com")
    assert isinstance(missing, e.CrmConfigurationError)
    assert frames(missing) == ["caught"]
    mistake = caught(hook.get_contact)
    assert len(frames(mistake)) > 1, "other exceptions keep their frames"


@KEEPS_FRAMES
def test_causes_are_shortened_unless_they_are_suppressed() -> None:
    def chained(suppress: bool) -> None:
        try:
            refuses()
        except e.CrmDealNotFoundError as error:
            if suppress:
                raise e.CrmTimeoutError("hidden") from None
            raise e.CrmTimeoutError("shown") from error

    shortened = short_traceback(chained)
    assert frames(caught(shortened, False).__cause__) == ["chained", "refuses"]  # type: ignore[arg-type]
    assert caught(shortened, True).__context__ is not None


@KEEPS_FRAMES
@pytest.mark.parametrize("retries", [0, 1])
def test_custom_task_has_only_its_own_frames(retries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_CRM_WITHOUT_KEY", '{"conn_type": "crm"}')
    ti = SimpleNamespace(max_tries=retries, try_number=1, xcom_push=lambda **_: None)
    monkeypatch.setattr("airflow.sdk.get_current_context", lambda: {"ti": ti, "task": SimpleNamespace()})

    def task() -> None:
        with crm_errors():
            CrmHook("crm_without_key").get_contact("ada@example.com")

    assert frames(caught(task)) == ["caught", "task"]


# -- errors that are not CRM errors ---------------------------------------------------------------------------


class Refused(RuntimeError):
    """A database error with a value in its message."""


Refused.__module__ = "somesql.errors"
OURS = CannotWrite("/data/people.csv", "No space left on device")


@pytest.mark.parametrize(
    ("error", "max_tries", "said"),
    [
        (
            Refused("ada@example.com"),
            1,
            (
                "Refused of somesql (table people, connection warehouse): not a CRM error. What to do: "
                'Its message is below, after "Task failed with exception". A retry helps if the cause is temporary, '
                "such as a lost connection; otherwise correct the cause and clear the task. Task: this try failed. "
                "1 retry left"
            ),
        ),
        (OURS, 0, f"{OURS}. Task: this try failed. No retries left (set retries=)"),
        (AirflowSkipException("said already"), 0, ""),
    ],
)
def test_error_that_is_not_a_crm_error(
    error: Exception, max_tries: int, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    task = SimpleNamespace(table="people", sql_conn_id="warehouse", do_xcom_push=True)
    pushed: dict[str, Any] = {}
    ti = SimpleNamespace(try_number=1, max_tries=max_tries, xcom_push=lambda key, value: pushed.update({key: value}))
    outcome.report_other(error, {"task": task, "ti": ti})  # type: ignore[typeddict-item]
    assert " ".join(" ".join(caplog.messages).split()) == said
    assert "ada@" not in str(pushed) and set(pushed) == {outcome.REASON_XCOM}
    pushed.clear()
    outcome.report_other(error, {"task": task, "ti": ti}, publish=False)  # type: ignore[typeddict-item]
    assert pushed == {}


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (Refused("ada@example.com"), "Refused: see the task's log"),
        (CannotWrite("/data", "x" * 2000), str(CannotWrite("/data", "x" * 2000))[:1000]),
        (AirflowSkipException("no deal"), "no deal"),
    ],
)
def test_published_reason_shows_only_texts_without_values(error: Exception, message: str) -> None:
    pushed: list[Any] = []
    ti = SimpleNamespace(xcom_push=lambda key, value: pushed.append(value))
    for task in (SimpleNamespace(), SimpleNamespace(do_xcom_push=False)):
        outcome.publish_reason(error, {"task": task, "ti": ti})  # type: ignore[typeddict-item]
    assert pushed == [{"error": type(error).__name__, "message": message}]


def test_error_of_python_is_not_a_crm_error(caplog: pytest.LogCaptureFixture) -> None:
    ti = SimpleNamespace(try_number=1, max_tries=0)
    outcome.report_other(KeyError("ada"), {"task": SimpleNamespace(), "ti": ti}, publish=False)  # type: ignore[typeddict-item]
    assert caplog.messages[0].startswith("KeyError of Python: not a CRM error.")


def source_error(kind: type[Exception]) -> BaseException:
    with crm_errors():
        raise kind("no column mail")


def test_source_that_cannot_be_used_is_not_retried_unless_its_file_may_come(monkeypatch: pytest.MonkeyPatch) -> None:
    pushed: dict[str, Any] = {}
    ti = SimpleNamespace(try_number=1, max_tries=3, xcom_push=lambda key, value: pushed.update({key: value}))
    monkeypatch.setattr("airflow.sdk.get_current_context", lambda: {"ti": ti, "task": SimpleNamespace()})
    assert type(caught(source_error, NoSuchFile)) is NoSuchFile
    assert pushed == {}
    refused = caught(source_error, SourceError)
    assert type(refused) is AirflowFailException
    assert type(refused.__cause__) is SourceError
    assert pushed == {"crm_reason": {"error": "SourceError", "message": "no column mail"}}


def test_decision_of_a_stopped_load_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    pushed: dict[str, Any] = {}
    ti = SimpleNamespace(try_number=1, max_tries=0, xcom_push=lambda key, value: pushed.update({key: value}))
    monkeypatch.setattr("airflow.sdk.get_current_context", lambda: {"ti": ti, "task": SimpleNamespace()})
    error = e.CrmDealNotFoundError("Deal not found.")
    stopped = LoadStopped(error, Decision.by_rule(Action.SKIP, "max_errors_in_a_row=3"), Summary(rows=1))

    def load() -> None:
        with crm_errors():
            raise error from stopped

    assert type(caught(load)) is AirflowSkipException
    assert pushed["crm_error"]["origin"] == "max_errors_in_a_row=3"


def test_record_of_a_task_that_is_not_retried(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(Exception, match=r"^no key$"):
        outcome.fail_without_retry("no key")
    said = "Task: failed; not retried, because a retry would fail in the same way"
    assert " ".join(caplog.text.split()).endswith(said)
