"""The trigger behind deferred sensors: it joins the poll of its connection and hands on how the wait ended.

It only reads: a trigger can run twice. Errors are handed on as data, and become the typed error again on the worker.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any, Literal
from weakref import WeakKeyDictionary

from airflow.triggers.base import BaseTrigger, TriggerEvent

from crm_provider import config
from crm_provider.errors.on_error import Work
from crm_provider.errors.policy import ErrorPolicy
from crm_provider.triggers.connection import PacedConnection
from crm_provider.waiting.backoff import MAX_ERRORS_IN_A_ROW, Waiting, to_steady
from crm_provider.waiting.conditions import Condition
from crm_provider.waiting.poller import LAST_LOOK, Ending, Poller

_pollers: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, Poller]] = WeakKeyDictionary()
"""The pollers of this process: one for each event loop and connection."""

PATIENCE = LAST_LOOK + 60.0
"""Seconds after the deadline at which waiting ends, whether or not a last look has come to its end."""


Limit = Literal["timeout", "execution_timeout"]


def time_left(deadline: float, execution_deadline: float | None, *, now: float) -> tuple[float, Limit]:
    """Seconds until a wait is broken off, and the limit that does it.

    ``execution_timeout`` breaks it off at once. ``timeout`` leaves :data:`PATIENCE` for the last look.
    """
    longest = max(deadline - now, 0.0) + PATIENCE
    if execution_deadline is None or execution_deadline - now >= longest:
        return longest, "timeout"
    return max(execution_deadline - now, 0.0), "execution_timeout"


class CrmPollTrigger(BaseTrigger):
    """Waits for the answer to a question, with one poll for all who wait on the connection.

    All arguments are JSON-able.

    :param question: :meth:`~crm_provider.waiting.conditions.Condition.as_data` of what is waited for
    :param crm_conn_id: the Airflow connection
    :param poke_interval: seconds between two looks
    :param deadline: when waiting ends, in seconds since the epoch: it stays where it is over hand-overs and restarts.
        There is one last look after it, together with others
    :param execution_deadline: when the task's ``execution_timeout`` is over, in seconds since the epoch. There is no
        look after it
    :param on_error: overrides of the error policy, as data
    :param policy_name: the sensor whose presets apply
    :param max_errors_in_a_row: server errors in a row that are waited through
    :param share_poll: False for a poll of its own
    :param memory: fields of :class:`~crm_provider.waiting.backoff.Waiting` after the look on the worker: what it met
        counts on. ``not_before`` in seconds since the epoch
    """

    def __init__(
        self,
        *,
        question: Mapping[str, Any],
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
        self.question = dict(question)
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
            "question", "crm_conn_id", "poke_interval", "deadline", "execution_deadline",
            "on_error", "policy_name", "max_errors_in_a_row", "share_poll", "memory",
        )  # fmt: skip
        return f"{type(self).__module__}.{type(self).__qualname__}", {name: getattr(self, name) for name in names}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """One event: the answer, the error that ends the wait, or that the time is over."""
        deadline, not_before = to_steady(self.deadline), to_steady(self.memory.get("not_before", 0.0))
        waiting = Waiting(**{**self.memory, "limit": self.max_errors_in_a_row, "not_before": not_before})
        wait = self._poller().wait(
            Condition.from_data(self.question),
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
        seconds, limit = time_left(self.deadline, self.execution_deadline, now=time.time())
        try:
            ending = await asyncio.wait_for(wait, seconds)
        except (TimeoutError, asyncio.TimeoutError):
            ending = Ending()
        else:
            limit = "timeout"
        if ending.answer is None and ending.error is None:
            yield TriggerEvent({"last_answer": waiting.last_answer, "limit": limit})
        elif ending.error is not None and ending.decision is not None:
            yield TriggerEvent({"error": ending.error.as_dict(), "decision": ending.decision.as_data()})
        else:
            yield TriggerEvent({"answer": ending.answer})

    def _poller(self) -> Poller:
        if not self.share_poll:
            return Poller(PacedConnection(self.crm_conn_id).client)
        pollers = _pollers.setdefault(asyncio.get_running_loop(), {})
        return pollers.setdefault(self.crm_conn_id, Poller(PacedConnection.shared(self.crm_conn_id).client))
