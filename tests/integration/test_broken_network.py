"""Final states of tasks, and lost or duplicated records, when the network to the CRM breaks.

Real tasks (``dag.test``) with one fault of each kind. ``tests/unit/test_broken_ways.py`` applies every fault to one
call. ``docs/reliability.md`` contains the table of the results.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import reliability
from airflow.sdk import DAG, chain
from broken_tasks import LASTING, NEW, PASSING, ROWS, TASKS, UNREACHED, UNREACHING, add_faults
from broken_ways import UNREACHABLE, plain_environment

from crm_provider import errors as e
from crm_provider._compat import HAS_RETRY_POLICY
from crm_provider.client import http_session, retry
from crm_provider.sandbox import Sandbox
from crm_provider.testing import assert_no_duplicates

pytestmark = pytest.mark.reliability("network")

RunDag = Callable[..., Any]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries do not wait, and a load sends one row at a time."""
    plain_environment(monkeypatch)
    monkeypatch.setattr(retry, "RetryBudget", partial(retry.RetryBudget, first_delay=0.0))
    monkeypatch.setattr("crm_provider.load.workers.width_for", lambda rate, latency: 1)


def dag_of(hits: Iterable[str], folder: Path, on_start: Callable[[str], None] = lambda _: None) -> DAG:
    """A DAG with one task for each name. They run one after the other, even if one fails."""
    with DAG("broken", schedule=None, default_args={"retries": 1, "retry_delay": timedelta(0)}) as dag:
        tasks = []
        for hit in hits:
            operator, arguments = TASKS[hit]
            own = {"target": str(folder / "contacts.jsonl")} if hit == "extract" else {}
            tasks.append(
                operator(
                    task_id=hit.replace(" ", "_"),
                    trigger_rule="all_done",
                    on_execute_callback=lambda context, hit=hit: on_start(hit),
                    **arguments,
                    **own,
                )
            )
        chain(*tasks)
    return dag


def end_of(task: Any) -> str:
    """The result of a task, in the words of the table."""
    tries = sum(1 for state in task.states if state not in ("deferred", "up_for_reschedule"))
    if task.state == "success":
        return "success"
    return f"{task.state}, {'at once' if tries == 1 else f'after {tries} tries'}"


@dataclass
class Table:
    """Rows of one fault. Tasks with the same result share a row."""

    observed: Callable[..., None]
    lines: dict[str, tuple[dict[str, Any], list[str]]] = field(default_factory=dict)

    def add(self, hit: str, *, error: BaseException | None, **seen: Any) -> None:
        key = reliability.Seen.of(part="network", hits="", error=error, **seen).line
        self.lines.setdefault(key, ({"error": error, **seen}, []))[1].append(hit)

    def write(self) -> None:
        if not HAS_RETRY_POLICY:
            return  # The table shows the newest Airflow. The assertions hold on all versions.
        for seen, hits in self.lines.values():
            self.observed(hits=", ".join(hits), **seen)


# -- no request reaches the CRM ------------------------------------------------------------------------------

ADVICE = {"the proxy asks for a password (407)": "check HTTPS_PROXY and the credentials in it"}
"""Advice that is part of the message, for errors of the connection or of Airflow's configuration."""


@pytest.mark.parametrize("fault", UNREACHED)
def test_unreachable_crm_fails_all_tasks(
    fault: str, run_dag: RunDag, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, observed: Callable[..., None]
) -> None:
    expected, end = UNREACHED[fault]
    table = Table(observed)
    with UNREACHABLE[fault](monkeypatch, tmp_path) as way:
        connection = {"conn_type": "crm", "host": way.base_url, "password": "k", "extra": {"rate_store": "off"}}
        monkeypatch.setenv("AIRFLOW_CONN_CRM_DEFAULT", json.dumps(connection))
        run = run_dag(dag_of(UNREACHING, tmp_path))
    assert way.requests == []
    assert not (tmp_path / "contacts.jsonl").exists()
    for hit in UNREACHING:
        task = run[hit]
        assert end_of(task) == end, hit
        error = table_error(task)
        assert type(error) is expected
        assert error.outcome_known is True
        advice = ADVICE[fault] if error.message_has_advice else error.suggested_action[1:]
        assert advice in str(error), "the message contains the advice"
        table.add(hit, fault=fault, ends=end, requests=0, data="nothing was sent", error=error)
    table.write()


def table_error(task: Any) -> e.CrmError:
    """The typed error that a task ended with."""
    error = task.error
    while error is not None and not isinstance(error, e.CrmError):
        error = error.__cause__
    assert error is not None, task.states
    return error


# -- faults of one request -----------------------------------------------------------------------------------


@dataclass
class Scene:
    """Applies one fault to each task of a DAG, and counts its requests."""

    crm: Sandbox
    fault: Mapping[str, Any]
    starts: list[tuple[str, int]] = field(default_factory=list)

    def add_faults(self, hit: str) -> None:
        """Set the fault just before a task runs. A deferred sensor runs a second time after its trigger."""
        again = any(hit == earlier for earlier, _ in self.starts)
        self.starts.append((hit, len(self.crm.journal())))
        if again:
            return
        self.crm.clear_faults()
        add_faults(self.crm, hit, self.fault)

    def requests(self, hit: str) -> int:
        after = [at for _, at in self.starts[1:]] + [len(self.crm.journal())]
        return sum(end - start for (name, start), end in zip(self.starts, after, strict=True) if name == hit)


@pytest.fixture
def crm(crm_sandbox: Sandbox, crm_connection: str, monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    monkeypatch.setenv("AIRFLOW_CONN_CRM_DEFAULT", crm_sandbox.connection_json(rate_store="off"))
    crm_sandbox.configure(rate=None)
    return crm_sandbox


@pytest.fixture
def one_second_per_clock_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that advances by one second on each read, so that the machine's speed does not matter."""
    ticks, real = itertools.count(), http_session.HttpSession
    monkeypatch.setattr(http_session, "HttpSession", partial(real, clock=lambda: float(next(ticks))))


def check_nothing_lost(crm: Sandbox, before: list[str], target: Path) -> None:
    """Check that each row was written once and each contact extracted once."""
    names = {email: contact.attributes["name"] for email, contact in crm.store.contacts.items()}
    written = {email: name for email, name in names.items() if email not in before}
    assert written == {NEW: "New", **{row["email"]: row["name"] for row in ROWS}}
    extracted = [json.loads(line)["email"] for line in target.read_text(encoding="utf-8").splitlines()]
    assert sorted(extracted) == sorted(crm.store.contacts)


@pytest.mark.parametrize("fault", PASSING)
def test_single_network_fault_is_retried_within_the_try(
    fault: str,
    crm: Sandbox,
    run_dag: RunDag,
    one_second_per_clock_read: None,
    fast_triggers: None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    observed: Callable[..., None],
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_CRM_DEFAULT", crm.connection_json(rate_store="off", timeout=10))
    before, scene, table = list(crm.store.contacts), Scene(crm, {**PASSING[fault], "count": 1}), Table(observed)
    run = run_dag(dag_of(TASKS, tmp_path, scene.add_faults))
    assert run.states() == dict.fromkeys(run.states(), "success")
    assert {task.try_number for task in run.tasks.values()} == {1}
    affected = [entry for entry in crm.journal() if entry.fault and not entry.fault.startswith("garbage")]
    assert len(affected) == len(TASKS), "each task has one failed request"
    assert_no_duplicates(crm)
    check_nothing_lost(crm, before, tmp_path / "contacts.jsonl")
    for hit in TASKS:
        table.add(
            hit,
            fault=f"{fault}, once",
            ends=end_of(run[hit.replace(" ", "_")]),
            requests=scene.requests(hit),
            data="nothing lost, nothing duplicated",
            error=None,
        )
    table.write()


# -- faults of all requests ----------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", LASTING)
def test_lasting_network_fault_fails_and_the_next_run_completes_the_work(
    fault: str, crm: Sandbox, run_dag: RunDag, fast_triggers: None, tmp_path: Path, observed: Callable[..., None]
) -> None:
    rule, expected, end = LASTING[fault]
    before, scene, table = list(crm.store.contacts), Scene(crm, rule), Table(observed)
    run = run_dag(dag_of(TASKS, tmp_path, scene.add_faults))
    written = [email for email in crm.store.contacts if email not in before]
    assert_no_duplicates(crm)
    assert not (tmp_path / "contacts.jsonl").exists(), "no partial file"
    for hit in TASKS:
        task = run[hit.replace(" ", "_")]
        assert end_of(task) == end, hit
        error = table_error(task)
        assert type(error) is expected
        wanted = {"upsert": [NEW], "load": [row["email"] for row in ROWS]}.get(hit)
        assert error.outcome_known is (wanted is None or expected is e.CrmForbiddenError)
        table.add(hit, fault=fault, ends=end, requests=scene.requests(hit), data=_words(wanted, written), error=error)
    crm.clear_faults()
    again = run_dag(dag_of(("upsert", "load", "extract"), tmp_path))
    assert again.states() == dict.fromkeys(again.states(), "success")
    check_nothing_lost(crm, before, tmp_path / "contacts.jsonl")
    table.write()


def _words(wanted: list[str] | None, written: list[str]) -> str:
    if wanted is None:
        return "read only"
    done = len(set(wanted) & set(written))
    if not done:
        return "nothing was written; the next run writes it"
    return f"{done} of {len(wanted)} written, reported as uncertain; the next run duplicates nothing"


def test_network_table_lists_exactly_the_tested_faults() -> None:
    faults = {fault for fault, _ in reliability.tables(reliability.DOCUMENT)["network"]}
    assert faults == {*UNREACHED, *(f"{fault}, once" for fault in PASSING), *LASTING}
