"""Assertions: about what the sandbox has seen, and how a DAG ends.

Assertions about what the sandbox has seen: the rate, refusals, creations that were repeated.

The assertion of a DAG's test: under this fault it ends with these states.
"""

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
    """The calls kept to the rate: at most ``calls + burst`` arrived within any ``seconds``.

    That is what a token bucket admits that gives back ``calls`` tokens in ``seconds`` and holds ``burst`` of them: from
    full, the whole burst and then all that comes back. Calls that were refused with 429 count as well.

    Example::

        assert_rate_kept(crm_sandbox)                        # 5 per second, burst 2: at most 7 in any second
        assert_rate_kept(crm_sandbox, calls=50, seconds=10)  # at most 52 in any 10 seconds

    :param burst: capacity of the bucket; by default the sandbox's
    :raises AssertionError: names the fullest window
    :raises ValueError: the journal no longer has all calls
    """
    dropped = sandbox.counters().journal_dropped
    if dropped:
        raise ValueError(f"the journal has lost {dropped} calls: give the sandbox a greater journal_size")
    bound = calls + (sandbox.settings.burst if burst is None else burst)
    fullest = _fullest_window(sandbox.journal(), seconds)
    if len(fullest) > bound:
        routes = Counter(f"{entry.method} {entry.route}" for entry in fullest)
        raise AssertionError(
            f"{len(fullest)} calls within {seconds:g} s from call {fullest[0].seq} on, but the rate admits {bound}: "
            + ", ".join(f"{count} x {route}" for route, count in routes.most_common())
        )


def assert_never_throttled(sandbox: Sandbox) -> None:
    """No call was answered with 429.

    :raises AssertionError: says how many were, and on which routes
    """
    refused = Counter(f"{entry.method} {entry.route}" for entry in sandbox.journal(status=429))
    count = sandbox.counters().throttled
    if count:
        raise AssertionError(f"{count} calls were answered with 429: {dict(refused)}")


def assert_no_duplicates(sandbox: Sandbox) -> None:
    """Nothing was created that was there already: no POST was repeated blindly.

    :raises AssertionError: says which creations were repeated, by the number of the call in the journal
    """
    counters = sandbox.counters()
    if counters.duplicate_contacts or counters.duplicate_deals:
        repeated = [entry.seq for entry in sandbox.journal() if entry.duplicate]
        raise AssertionError(
            f"{counters.duplicate_contacts} contacts and {counters.duplicate_deals} deals were created although they "
            f"were there: calls {repeated} of the journal"
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
"""States that a task can end with."""


def assert_dag_ends(
    dag: DAG,
    states: Mapping[str, str] | None = None,
    *,
    others: str | None = "success",
    sandbox: Sandbox | None = None,
    fault: OneFault | Sequence[OneFault] | None = None,
    **arguments: Any,
) -> FinishedRun:
    """Run a DAG, under a fault if one is given; each task must end with its state.

    Example: a deal that is gone is skipped, and all other tasks succeed::

        gone = {"effect": "error", "error": "DEAL_NOT_FOUND", "method": "PUT", "path": "/deals/*"}
        run = assert_dag_ends(dag, {"move_deal": "skipped"}, sandbox=crm_quick, fault=gone)
        assert run["move_deal"].xcoms["crm_error"]["type"] == "DEAL_NOT_FOUND"

    :param states: state by task id. ``"upsert"`` of a mapped task stands for all its instances, ``"upsert[2]"`` for one
    :param others: state of the tasks that ``states`` does not name; None if it does not matter
    :param sandbox: what the connection leads to; needed with ``fault``
    :param fault: the fields of a :class:`~crm_provider.sandbox.Fault`, a fault, or several; taken away after the run
    :param arguments: of :func:`run_dag` and of ``dag.test()``: ``run_conf``, ``real_time``, ...
    :return: the run, to look at XComs, tries, waits and logs
    :raises AssertionError: names each task that ended otherwise, and why; or a fault that struck no call
    :raises ValueError: a task or a state that there is not, or a fault without a sandbox
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
    """The faults while the DAG runs: what they are by the sandbox's names for them."""
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
    """The fields of a fault that are not as by default."""
    by_default = {field.name: field.default for field in fields(fault)}
    return {name: value for name, value in asdict(fault).items() if value != by_default[name]}


def _hits(sandbox: Sandbox | None) -> dict[str, int]:
    return {status.fault.name: status.hits for status in sandbox.faults()} if sandbox else {}


def _wrong(run: FinishedRun, expected: Mapping[str, str], others: str | None) -> Iterator[str]:
    """A line for each task that ended otherwise."""
    for name, task in run.tasks.items():
        wanted = expected.get(name, expected.get(name.partition("[")[0], others))
        if wanted is not None and task.state != wanted:
            yield f"  {name}: {task.state}, expected {wanted}. {_why(task)}"
    for name in expected:
        if name not in run.tasks and not any(there.startswith(f"{name}[") for there in run.tasks):
            yield f"  {name}: there was none"


def _why(task: TaskEnd) -> str:
    """The exception, or what the CRM answered, or the last lines of the log."""
    tries = f"{len(task.attempts)} attempt{'' if len(task.attempts) == 1 else 's'}"
    if task.error is not None:
        return f"{tries}, {type(task.error).__name__}: {task.error}"
    met = task.xcoms.get("crm_error")
    if isinstance(met, Mapping):
        return f"{tries}, {met.get('type')} -> {met.get('action')}, by {met.get('origin')}"
    last = task.log.splitlines()[-1:]
    return f"{tries}{', ' if last else ''}{''.join(last)}"


def _seen(sandbox: Sandbox | None, since: int) -> list[str]:
    """The calls of the run, as the sandbox saw them."""
    if sandbox is None:
        return []
    seen = Counter(
        f"{entry.method} {entry.route} -> {entry.status or 'no answer'}" for entry in sandbox.journal(since=since)
    )
    return ["  the sandbox saw: " + (", ".join(f"{count} x {call}" for call, count in seen.items()) or "no call")]
