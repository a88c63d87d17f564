"""The text of a load alert: counts and reasons, no row values."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from crm_provider import config
from crm_provider import errors as e
from crm_provider._compat import AirflowFailException
from crm_provider.load.rows import SourceError
from crm_provider.tasks.alerts import load_alert

LOG = "https://airflow.example.com/dags/crm_leads/runs/r/tasks/load"
PAGE = "https://airflow.example.com/crm/run?dag_id=crm_leads&task_id=load&run_id=r%2B1"


@pytest.fixture(autouse=True)
def base_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config.conf, "get", lambda *_, **__: "https://airflow.example.com")


DONE = {"rows": 1200, "created": 1000, "updated": 200, "rejected": 0, "calls": 1300, "rejects_path": None}
REJECTS = {
    "rows": 7, "created": 4, "rejected": 2, "left": 1, "calls": 5, "rejects_path": "/data/rejects.jsonl",
    "errors": {"INVALID_VALUE": 1, "INVALID_INPUT": 1}, "problems": {"email: is not a valid email address": 1},
}  # fmt: skip
COUNTS = (
    "7 rows: 4 created, 2 rejected, 1 left; 5 calls",
    "1 INVALID_INPUT",
    "1 INVALID_VALUE",
    "1 row: email: is not a valid email address",
    "Rejected rows: /data/rejects.jsonl",
)
REFUSED = e.CrmForbiddenError("no", status=403, method="POST", path="/contacts", request_id="r-1")
CHECK_KEY = "What to do: Check the API key (field Password) in the Airflow connection, or generate one in the CRM."


def callback_of(result: Any, error: BaseException | None = None, *, map_index: int = -1) -> dict[str, Any]:
    """The context of a task's callback."""
    task = SimpleNamespace(last_result=result)
    ti = SimpleNamespace(dag_id="crm_leads", task_id="load", run_id="r+1", map_index=map_index, log_url=LOG, task=task)
    return {"ti": ti, **({"exception": error} if error is not None else {})}


def sent(context: dict[str, Any], **how: Any) -> Any:
    """The summary that the notifier receives, or None if it is not called."""
    given: list[Any] = []
    load_alert(lambda context: given.append(context["crm_summary"]), **how)(context)  # type: ignore[arg-type]
    return given[0] if given else None


def caused(cause: BaseException) -> AirflowFailException:
    error = AirflowFailException("anything")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("result", "error", "state", "lines"),
    [
        (DONE, None, "succeeded", ("1,200 rows: 1,000 created, 200 updated; 1,300 calls",)),
        (REJECTS, None, "succeeded with rejects", COUNTS),
        (
            {"rows": 3, "deleted": 0, "left": 3, "unsure": 2, "calls": 5}, REFUSED, "failed",
            ("FORBIDDEN (403)", CHECK_KEY, "Request id: r-1", "3 rows: 3 left, of which up to 2 may have been deleted"),
        ),
        (REJECTS, REFUSED, "failed", ("FORBIDDEN (403) on POST /contacts: no.", CHECK_KEY, "Request id: r-1", *COUNTS)),
        (None, caused(SourceError("there is no file /x")), "failed", ("there is no file /x",)),
        (None, e.CrmProtocolError("odd"), "failed", ("PROTOCOL: odd.", "What to do: ")),
        ({**REJECTS, "ending": "2 of 7 rows were rejected."}, AirflowFailException("?"), "failed",
         ("2 of 7 rows were rejected.", *COUNTS)),
        (None, ValueError("a value: ada@example.com"), "failed", ("ValueError: see the log",)),
    ],
)  # fmt: skip
def test_summary_of_an_alert(result: Any, error: BaseException | None, state: str, lines: tuple[str, ...]) -> None:
    summary = sent(callback_of(result, error))
    assert summary.title == f"crm_leads / load: {state}"
    assert [line[: len(start)] for line, start in zip(summary.lines, lines, strict=True)] == list(lines)
    links = (f"Run: {PAGE}", f"Log: {LOG}")
    assert str(summary).splitlines() == [summary.title, *summary.lines, *links]
    listed = [f"- {line}" for line in (*summary.lines, *links)]
    assert summary.markdown.splitlines() == [f"`crm_leads / load`: {state}", "", *listed]


@pytest.mark.parametrize(("result", "is_sent"), [(DONE, False), (REJECTS, True), (None, False)])
def test_alert_only_with_rejects(result: Any, is_sent: bool) -> None:
    assert (sent(callback_of(result), when="rejects") is not None) is is_sent


@pytest.mark.parametrize(
    ("known", "lines"),
    [({"crm_decision": (REFUSED, None)}, ("FORBIDDEN (403) on POST /contacts: no.", CHECK_KEY, "Request id: r-1")),
     ({}, ("See the log",))],
)  # fmt: skip
def test_failed_or_skipped_task_without_an_exception_in_the_callback(
    known: dict[str, Any], lines: tuple[str, ...]
) -> None:
    context = {**callback_of(None), **known}
    context["ti"].state = "up_for_retry"
    assert (sent(context).state, sent(context).lines) == ("failed", lines)
    context["ti"].state = "skipped"
    assert (sent(context).state, sent(context).lines) == ("skipped", lines if known else ())


def test_mapped_load_has_its_index() -> None:
    summary = sent(callback_of(DONE, map_index=0))
    assert summary.title == "crm_leads / load [0]: succeeded"
    assert summary.link == f"{PAGE}&map_index=0"


def test_link_is_the_task_without_a_base_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config.conf, "get", lambda *_, **__: None)
    summary = sent(callback_of(DONE))
    assert summary.link == LOG
    assert summary.text.splitlines()[-2:] == ["1,200 rows: 1,000 created, 200 updated; 1,300 calls", f"Log: {LOG}"]


def test_unknown_condition_is_refused() -> None:
    with pytest.raises(ValueError, match="when='never' is unknown; known: always, rejects"):
        load_alert(print, when="never")  # type: ignore[arg-type]
