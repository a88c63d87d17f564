"""Assertions about the calls that the sandbox received, and about the states in which a DAG ends."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any, TypeAlias

from crm_provider.testing.dag_runs import FinishedRun, TaskEnd, run_dag

if TYPE_CHECKING:
    from airflow.sdk import DAG

    from crm_provider.sandbox import Fault, JournalEntry, Sandbox


def assert_rate_kept(sandbox: Sandbox, *, calls: int = 5, seconds: float = 1.0, burst: int | None = None) -> None:
    """Assert that the calls kept the rate: at most ``calls + burst`` arrived within any ``seconds``.

    That is what a full token bucket admits if it holds ``burst`` tokens and gets back ``calls`` tokens in ``seconds``.
    Calls that were refused with 429 count as well.

    Example::

        assert_rate_kept(crm_sandbox)                        # 5 per second, burst 2: at most 7 in any second
        assert_rate_kept(crm_sandbox, calls=50, seconds=10)  # at most 52 in any 10 seconds

    :param burst: capacity of the bucket; by default that of the sandbox
    :raises AssertionError: names the fullest window
    :raises ValueError: the journal no longer holds all calls
    """
    dropped = sandbox.counters().journal_dropped
    if dropped:
        raise ValueError(f"the journal has lost calls ({dropped}): give the sandbox a greater journal_size")
    bound = calls + (sandbox.settings.burst if burst is None else burst)
    fullest = _fullest_window(sandbox.journal(), seconds)
    if len(fullest) > bound:
        routes = Counter(f"{entry.method} {entry.route}" for entry in fullest)
        raise AssertionError(
            f"{len(fullest)} calls within {seconds:g} s from call {fullest[0].seq} on, but the rate admits {bound}: "
            + ", ".join(f"{count} x {route}" for route, count in routes.most_common())
        )


def assert_never_throttled(sandbox: Sandbox) -> None:
    """Assert that no call got the response 429.

    :raises AssertionError: names their number and their routes
    """
    refused = Counter(f"{entry.method} {entry.route}" for entry in sandbox.journal(status=429))
    count = sandbox.counters().throttled
    if count:
        raise AssertionError(f"calls with the response 429: {count}, {dict(refused)}")


def assert_no_duplicates(sandbox: Sandbox) -> None:
    """Assert that nothing was created twice: no POST was repeated blindly.

    :raises AssertionError: names the repeated creations by the number of the call in the journal
    """
    counters = sandbox.counters()
    if counters.duplicate_contacts or counters.duplicate_deals:
        repeated = [entry.seq for entry in sandbox.journal() if entry.duplicate]
        raise AssertionError(
            f"created although they existed: contacts {counters.duplicate_contacts}, deals {counters.duplicate_deals}; "
            f"calls {repeated} of the journal"
        )


def _fullest_window(entries: list[JournalEntry], seconds: float) -> list[JournalEntry]:
    """The most calls that arrived within any ``seconds``."""
    window: deque[JournalEntry] = deque()
    fullest: list[JournalEntry] = []
    for entry in entries:
        window.append(entry)
        while window[0].at <= entry.at - seconds:
            window.popleft()
        if len(window) > len(fullest):
            fullest = list(window)
    return fullest


OneFault: TypeAlias = "Mapping[str, Any] | Fault"

STATES = ("success", "failed", "skipped", "upstream_failed", "removed")
"""Final states of a task."""


def assert_dag_ends(
    dag: DAG,
    states: Mapping[str, str] | None = None,
    *,
    others: str | None = "success",
    sandbox: Sandbox | None = None,
    fault: OneFault | Sequence[OneFault] | None = None,
    **arguments: Any,
) -> FinishedRun:
    """Run a DAG, under a fault if one is given, and assert the final state of each task.

    Example: a deal that is gone is skipped, and all other tasks succeed::

        gone = {"effect": "error", "error": "DEAL_NOT_FOUND", "method": "PUT", "path": "/deals/*"}
        run = assert_dag_ends(dag, {"move_deal": "skipped"}, sandbox=crm_quick, fault=gone)
        assert run["move_deal"].xcoms["crm_error"]["type"] == "DEAL_NOT_FOUND"

    :param states: state by task id. ``"upsert"`` of a mapped task stands for all its instances, ``"upsert[2]"`` for one
    :param others: expected state of the tasks that ``states`` does not name; None if it does not matter
    :param sandbox: the sandbox behind the connection; needed with ``fault``
    :param fault: a :class:`~crm_provider.sandbox.Fault`, its fields, or several of these; removed after the run
    :param arguments: of :func:`run_dag` and of ``dag.test()``: ``run_conf``, ``real_time``, ...
    :return: the run, with XComs, attempts, waits and logs
    :raises AssertionError: names each task that ended in another state, and why; or a fault that struck no call
    :raises ValueError: an unknown task or state, or a fault without a sandbox
    """
    expected = dict(states or {})
    _check(dag, expected, others)
    since = sandbox.counters().total if sandbox else 0
    with _added(fault, sandbox) as names:
        run = run_dag(dag, **arguments)
        idle = [name for name, hits in _hits(sandbox).items() if name in names and not hits]
    wrong = [*_wrong(run, expected, others), *(f"  the fault {names[name]} struck no call" for name in idle)]
    if wrong:
        under = f" under {' and '.join(map(str, names.values()))}" if names else ""
        raise AssertionError(
            "\n".join([f"{dag.dag_id} did not end as expected{under}:", *wrong, *_seen(sandbox, since)])
        )
    return run


def _check(dag: DAG, expected: Mapping[str, str], others: str | None) -> None:
    unknown = sorted({name.partition("[")[0] for name in expected} - set(dag.task_ids))
    if unknown:
        raise ValueError(f"{dag.dag_id} has no task {', '.join(unknown)}; it has {', '.join(sorted(dag.task_ids))}")
    for state in [*expected.values(), *([others] if others else [])]:
        if state not in STATES:
            raise ValueError(f"a task does not end with {state!r}; use one of {', '.join(STATES)}")


@contextmanager
def _added(fault: OneFault | Sequence[OneFault] | None, sandbox: Sandbox | None) -> Iterator[dict[str, dict[str, Any]]]:
    """Add the faults for the duration of the run: the sandbox's name -> fields of the fault."""
    if fault is None:
        yield {}
        return
    if sandbox is None:
        raise ValueError("a fault needs the sandbox that it is for: sandbox=crm_sandbox")
    names: dict[str, dict[str, Any]] = {}
    try:
        for one in fault if isinstance(fault, Sequence) else [fault]:
            added = sandbox.add_fault(**one) if isinstance(one, Mapping) else sandbox.add_fault(one)
            names[added.name] = dict(one) if isinstance(one, Mapping) else _set_in(one)
        yield names
    finally:
        for name in names:
            sandbox.remove_fault(name)


def _set_in(fault: Fault) -> dict[str, Any]:
    """The fields of a fault that differ from their defaults."""
    by_default = {field.name: field.default for field in fields(fault)}
    return {name: value for name, value in asdict(fault).items() if value != by_default[name]}


def _hits(sandbox: Sandbox | None) -> dict[str, int]:
    return {status.fault.name: status.hits for status in sandbox.faults()} if sandbox else {}


def _wrong(run: FinishedRun, expected: Mapping[str, str], others: str | None) -> Iterator[str]:
    """A line for each task that ended in another state."""
    for name, task in run.tasks.items():
        wanted = expected.get(name, expected.get(name.partition("[")[0], others))
        if wanted is not None and task.state != wanted:
            yield f"  {name}: {task.state}, expected {wanted}. {_why(task)}"
    for name in expected:
        if name not in run.tasks and not any(there.startswith(f"{name}[") for there in run.tasks):
            yield f"  {name}: there was none"


def _why(task: TaskEnd) -> str:
    """The exception, or the error from the CRM, or the last lines of the log."""
    from crm_provider.values.counted import counted  # pytest loads this plugin before coverage begins

    tries = counted(len(task.attempts), "attempt")
    if task.error is not None:
        return f"{tries}, {type(task.error).__name__}: {task.error}"
    found = task.xcoms.get("crm_error")
    if isinstance(found, Mapping):
        return f"{tries}, {found.get('type')} -> {found.get('action')}, by {found.get('origin')}"
    last = task.log.splitlines()[-1:]
    return f"{tries}{', ' if last else ''}{''.join(last)}"


def _seen(sandbox: Sandbox | None, since: int) -> list[str]:
    """The calls of the run, as the sandbox saw them."""
    if sandbox is None:
        return []
    seen = Counter(
        f"{entry.method} {entry.route} -> {entry.status or 'no response'}" for entry in sandbox.journal(since=since)
    )
    return ["  the sandbox saw: " + (", ".join(f"{count} x {call}" for call, count in seen.items()) or "no call")]
