"""Outcomes of a row with an error, and of its load.

The expected results are written by hand from the table of default outcomes in the design (column "row of a load").
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, NamedTuple

import pytest
from airflow.sdk import DAG

from crm_provider.errors.on_error import Work
from crm_provider.errors.policy import OPERATORS
from crm_provider.operators.load import (
    CrmDeleteContactsOperator,
    CrmLoadContactsOperator,
    CrmLoadDealsOperator,
    CrmRetryRejectsOperator,
)
from crm_provider.sandbox import Sandbox, SandboxSettings
from crm_provider.transfers.sql_to_crm import SqlToCrmContactsOperator, SqlToCrmDealsOperator

RunDag = Callable[..., Any]
Waits = dict[str, list[float]]


class End(NamedTuple):
    """The end of a load of three rows, of which the second one fails.

    :param states: after each run, with ``retries=1``
    :param counts: created, rejected and left rows in the XCom
    :param retryable: the field of this name in the rejects file
    :param decided: the action in the XCom ``crm_error``; None if the load did not end with an error
    """

    states: list[str]
    counts: tuple[int, int, int]
    retryable: bool | None = None
    decided: str | None = None


REJECT = End(["failed"], (2, 1, 0), retryable=False)
REJECT_RETRYABLE = End(["failed"], (2, 1, 0), retryable=True)
STOP = End(["failed"], (1, 0, 2), decided="fail")
RETRY = End(["up_for_retry", "failed"], (1, 0, 2), decided="retry")
RESCHEDULE = End(["up_for_reschedule", "success"], (3, 0, 0))


def error_response(name: str) -> dict[str, Any]:
    return {"effect": "error", "error": name}


CASES: Mapping[str, tuple[Mapping[str, Any], End]] = {
    "FORBIDDEN": (error_response("FORBIDDEN"), STOP),
    "INVALID_INPUT": (error_response("INVALID_INPUT"), REJECT),
    "TOO_MANY_REQUESTS": (error_response("TOO_MANY_REQUESTS"), RETRY),
    "LIMIT_EXCEEDED": (error_response("quota used up"), RESCHEDULE),
    "BAD_GATEWAY": (error_response("bad gateway"), REJECT_RETRYABLE),
    "TIMEOUT": ({"effect": "drip", "latency": 0.02}, REJECT_RETRYABLE),
    "broken JSON": ({"effect": "garbage", "status": 200, "body": '{"data": {"id": "'}, STOP),
}

"""One case per end. ``tests/unit/test_policy.py`` maps all other errors to these ends."""


def test_each_load_operator_has_outcome_tests() -> None:
    tested = {
        CrmLoadContactsOperator, CrmRetryRejectsOperator, SqlToCrmContactsOperator,
        CrmLoadDealsOperator, SqlToCrmDealsOperator, CrmDeleteContactsOperator,  # test_load_deals.py
    }  # fmt: skip
    loads = {name.partition("(")[0] for name, work in OPERATORS.items() if work is Work.LOAD}
    assert {operator.__name__ for operator in tested} == loads


def set_fault(crm: Sandbox, name: str) -> Callable[[Any], None]:
    """Set the fault of a case just before its first try. It affects the second row only."""
    fault, end = CASES[name]

    def callback(context: Any) -> None:
        crm.clear_faults()
        if end is not RESCHEDULE or name not in met:
            once = {"count": 1} if end is RESCHEDULE else {}
            crm.add_fault(**fault, **once, name=name, email=f"b{numbers[name]}@example.com")
        met.add(name)

    met: set[str] = set()
    return callback


numbers = {name: number for number, name in enumerate(CASES)}


def actual(task: Any) -> End:
    result = task.result
    counts = (result["created"], result["rejected"], result["left"])
    error = task.xcoms.get("crm_error")
    return End(task.states, counts, None, error and error["action"])


def test_load_ends_as_in_the_table(
    crm: Sandbox, fast_clock: str, run_dag: RunDag, waits: Waits, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    crm.reset(SandboxSettings(seed="empty", rate=None))
    # one row at a time, so that no row is in flight when the load stops
    monkeypatch.setattr("crm_provider.load.workers.width_for", lambda rate, latency: 1)
    with DAG("load_outcomes", schedule=None, default_args={"retries": 1, "retry_delay": timedelta(0)}) as dag:
        for name, number in numbers.items():
            CrmLoadContactsOperator(
                task_id=f"load_{number}",
                crm_conn_id=fast_clock if name == "TIMEOUT" else "crm_default",
                source=[{"email": f"{letter}{number}@example.com", "name": "N"} for letter in "abc"],
                rejects_path=str(tmp_path / f"{number}.jsonl"),
                on_execute_callback=set_fault(crm, name),
            )
    run = run_dag(dag)
    found = {}
    for name, number in numbers.items():
        end, path = actual(run[f"load_{number}"]), tmp_path / f"{number}.jsonl"
        if path.exists():
            (reject,) = map(json.loads, path.read_text().splitlines())
            end = end._replace(retryable=reject["retryable"])
        found[name] = end
    differences = {
        name: {"is": end, "should be": CASES[name][1]} for name, end in found.items() if end != CASES[name][1]
    }
    assert differences == {}
