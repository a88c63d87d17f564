"""The trigger of deferred sensors: it joins the poll of its connection and passes on how the wait ended.

It only reads, because a trigger can run twice. Errors are passed on as data; the worker raises the typed errors again.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Literal

from airflow.triggers.base import BaseTrigger, TriggerEvent

from crm_provider import config
from crm_provider.errors.on_error import Work
from crm_provider.errors.policy import ErrorPolicy
from crm_provider.tasks.outcome import record
from crm_provider.triggers.connection import SharedConnection
from crm_provider.values.backoff import delay
from crm_provider.waiting.backoff import MAX_ERRORS_IN_A_ROW, WaitState, to_steady
from crm_provider.waiting.conditions import Condition
from crm_provider.waiting.poller import LAST_CHECK, Poller, WaitResult
from crm_provider.waiting.registry import LoopRegistry

log = logging.getLogger(__name__)

_pollers = LoopRegistry(lambda crm_conn_id: Poller(SharedConnection.shared(crm_conn_id).client))
"""The pollers of this process, by connection."""

_sweepers = LoopRegistry(lambda crm_conn_id: Poller(SharedConnection.shared(crm_conn_id).client))
"""Separate pollers for conditions that read a whole listing, so that the others do not wait for a sweep."""

PATIENCE = LAST_CHECK + 60.0
"""Seconds after the deadline at which the wait ends, even if the last check has not finished."""


FIRST_REPORT, LONGEST_REPORT = 60.0, 600.0
"""Seconds until a waiting task logs that it still waits, doubled each time, and the upper limit."""

REPORT_GAP = 1.0
"""Minimum seconds between two such lines of all tasks in the triggerer. Airflow 3.3 reads 4 KiB of log lines in each
loop of its database work: with ten thousand triggers a few dozen lines a second, in which its own must fit as well."""

Limit = Literal["timeout", "execution_timeout"]


def time_left(deadline: float, execution_deadline: float | None, *, now: float) -> tuple[float, Limit]:
    """Seconds until a wait is cancelled, and the limit that cancels it; all times by one clock.

    ``execution_timeout`` cancels it at once. ``timeout`` leaves :data:`PATIENCE` for the last check.
    """
    longest = max(deadline - now, 0.0) + PATIENCE
    if execution_deadline is None or execution_deadline - now >= longest:
        return longest, "timeout"
    return max(execution_deadline - now, 0.0), "execution_timeout"


class ReportTurns:
    """Spreads the lines of many waiting tasks. Each task gets the next free turn.

    :param gap: seconds between two turns
    :param clock: a monotonic clock
    """

    def __init__(self, gap: float = REPORT_GAP, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._gap, self._clock = gap, clock
        self._next = 0.0

    def take(self) -> float:
        """Seconds until the turn that the caller gets."""
        now = self._clock()
        turn = max(self._next, now)
        self._next = turn + self._gap
        return turn - now


_turns = LoopRegistry(lambda _: ReportTurns())


async def _report(waiting: WaitState) -> None:
    """Log periodically, in the task's log, that the task still waits.

    In a thread: writing blocks while the triggerer's parent process does not read, and must not stop all triggers.
    """
    for number in itertools.count(1):
        await asyncio.sleep(delay(number, first=FIRST_REPORT, longest=LONGEST_REPORT, jitter=1.0))
        await asyncio.sleep(_turns.get("").take())
        line = record("Still waiting.", [("Last result", waiting.last_result)])
        await asyncio.to_thread(log.info, "%s", line)


class CrmPollTrigger(BaseTrigger):
    """Waits for a condition, with one poll for all waiting tasks of the connection.

    All arguments are JSON-serializable.

    :param condition: :meth:`~crm_provider.waiting.conditions.Condition.as_data`
    :param crm_conn_id: the Airflow connection
    :param poke_interval: seconds between two checks
    :param deadline: when the wait ends, in seconds since the epoch. It does not move when a triggerer is restarted or
        replaced. One last check follows, shared with others
    :param execution_deadline: when the task's ``execution_timeout`` is over, in seconds since the epoch. No check
        follows
    :param on_error: overrides of the error policy, as data
    :param policy_name: the sensor whose presets apply
    :param max_errors_in_a_row: consecutive server errors that do not end the wait
    :param share_poll: False for a separate poll
    :param memory: fields of :class:`~crm_provider.waiting.backoff.WaitState` after the check on the worker, whose
        errors count. ``not_before`` is in seconds since the epoch
    """

    def __init__(
        self,
        *,
        condition: Mapping[str, Any],
        crm_conn_id: str,
        poke_interval: float,
        deadline: float,
        execution_deadline: float | None = None,
        on_error: Mapping[str, str] | None = None,
        policy_name: str | None = None,
        max_errors_in_a_row: int = MAX_ERRORS_IN_A_ROW,
        share_poll: bool = True,
        memory: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.condition = dict(condition)
        self.crm_conn_id = crm_conn_id
        self.poke_interval = poke_interval
        self.deadline = deadline
        self.execution_deadline = execution_deadline
        self.on_error = dict(on_error or {})
        self.policy_name = policy_name
        self.max_errors_in_a_row = max_errors_in_a_row
        self.share_poll = share_poll
        self.memory = dict(memory or {})

    def serialize(self) -> tuple[str, dict[str, Any]]:
        names = (
            "condition", "crm_conn_id", "poke_interval", "deadline", "execution_deadline",
            "on_error", "policy_name", "max_errors_in_a_row", "share_poll", "memory",
        )  # fmt: skip
        return f"{type(self).__module__}.{type(self).__qualname__}", {name: getattr(self, name) for name in names}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield one event: the result, the error that ends the wait, or the limit that was reached."""
        deadline, not_before = to_steady(self.deadline), to_steady(self.memory.get("not_before", 0.0))
        waiting = WaitState(**{**self.memory, "limit": self.max_errors_in_a_row, "not_before": not_before})
        condition = Condition.from_data(self.condition)
        wait = self._poller(sweeps=condition.sweeps).wait(
            condition,
            interval=self.poke_interval,
            policy=ErrorPolicy(
                self.on_error,
                work=Work.SENSOR,
                operator=self.policy_name,
                site=config.on_error(Work.SENSOR),
            ),
            waiting=waiting,
            deadline=deadline,
        )
        execution_deadline = None if self.execution_deadline is None else to_steady(self.execution_deadline)
        seconds, limit = time_left(deadline, execution_deadline, now=time.monotonic())
        reports = asyncio.create_task(_report(waiting))
        try:
            ended = await asyncio.wait_for(wait, seconds)
        except (TimeoutError, asyncio.TimeoutError):
            ended = WaitResult()
        else:
            limit = "timeout"
        finally:
            reports.cancel()
        if ended.result is None and ended.error is None:
            yield TriggerEvent({"last_result": waiting.last_result, "limit": limit})
        elif ended.error is not None and ended.decision is not None:
            yield TriggerEvent({"error": ended.error.as_dict(), "decision": ended.decision.as_data()})
        else:
            yield TriggerEvent({"result": ended.result})

    def _poller(self, *, sweeps: bool = False) -> Poller:
        if not self.share_poll:
            return Poller(SharedConnection(self.crm_conn_id).client)
        return (_sweepers if sweeps else _pollers).get(self.crm_conn_id)
