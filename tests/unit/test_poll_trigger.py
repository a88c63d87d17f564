"""The trigger: its serialization, its single event, and the poll it joins."""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import threading
import time
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from crm_provider import errors as e
from crm_provider.client.client import CrmClient
from crm_provider.client.settings import Settings
from crm_provider.client.transport import Transport
from crm_provider.errors.on_error import Action
from crm_provider.errors.policy import DecidedBy, Decision, ErrorPolicy
from crm_provider.triggers import poll
from crm_provider.triggers.connection import UNREAD_IN_A_ROW, SharedConnection
from crm_provider.triggers.poll import CrmPollTrigger
from crm_provider.waiting.backoff import WaitState, to_wall
from crm_provider.waiting.conditions import Condition, InList, ListExists
from crm_provider.waiting.poller import CachedLookup, WaitResult
from crm_provider.waiting.registry import LoopRegistry

pytestmark = pytest.mark.usefixtures("no_loop_logs")


def trigger(**changes: Any) -> CrmPollTrigger:
    arguments: dict[str, Any] = {
        "condition": ListExists(list_name="VIP").as_data(),
        "crm_conn_id": "crm_default",
        "poke_interval": 60.0,
        "deadline": time.time() + 100,
    }
    return CrmPollTrigger(**{**arguments, **changes})


def recreated(one: CrmPollTrigger) -> CrmPollTrigger:
    """The trigger after its trip through the database to another triggerer."""
    path, arguments = one.serialize()
    module, _, name = path.rpartition(".")
    copy: CrmPollTrigger = getattr(importlib.import_module(module), name)(**json.loads(json.dumps(arguments)))
    return copy


class FakePoller:
    """Ends each wait as configured, or never. Records its arguments."""

    def __init__(self, ending: WaitResult | None = None) -> None:
        self.ending = ending
        self.joined = asyncio.Event()
        self.asked: list[dict[str, Any]] = []
        self.left = 0

    async def wait(self, condition: Condition, **arguments: Any) -> WaitResult:
        self.asked.append({"condition": condition, **arguments})
        self.joined.set()
        try:
            if self.ending is None:
                await asyncio.Event().wait()
        finally:
            self.left += 1
        assert self.ending is not None
        return self.ending


def events(one: CrmPollTrigger, poller: FakePoller, monkeypatch: pytest.MonkeyPatch) -> list[Mapping[str, Any]]:
    """All events of a run; each survives JSON."""
    monkeypatch.setattr(CrmPollTrigger, "_poller", lambda self, **_: poller)

    async def collect() -> list[Any]:
        return [event.payload async for event in one.run()]

    found = asyncio.run(asyncio.wait_for(collect(), 300))
    assert json.loads(json.dumps(found)) == found
    return found


# -- serialization ------------------------------------------------------------------------------------------


def test_recreated_trigger_is_the_same() -> None:
    condition = InList(emails=("ann@x.io", "bob@x.io"), list_name="VIP", match="any")
    one = trigger(
        condition=condition.as_data(),
        on_error={"CONTACT_NOT_FOUND": "fail"},
        policy_name="CrmContactSensor",
        max_errors_in_a_row=3,
        share_poll=False,
        memory={"errors_in_a_row": 2, "not_before": 5.0, "last_result": "x", "limit": 3},
    )
    copy = recreated(one)
    assert copy.serialize()[0] == one.serialize()[0]
    assert json.dumps(copy.serialize()[1]) == json.dumps(one.serialize()[1])
    assert Condition.from_data(copy.condition) == condition


# -- the event ----------------------------------------------------------------------------------------------


def test_result_of_the_event(monkeypatch: pytest.MonkeyPatch) -> None:
    result = {"id": "1", "name": "VIP"}
    assert events(trigger(), FakePoller(WaitResult(result=result)), monkeypatch) == [{"result": result}]


def test_error_is_restored_with_its_class(monkeypatch: pytest.MonkeyPatch) -> None:
    error = e.CrmForbiddenError("no", status=403, request_id="req-7", method="GET", path="/segments")
    ending = WaitResult(error=error, decision=Decision(Action.FAIL, DecidedBy.DEFAULT, "CrmAccessError"))
    [event] = events(trigger(), FakePoller(ending), monkeypatch)
    assert event["decision"] == {
        "action": "fail", "decided_by": "default", "line": "CrmAccessError", "operator": None,
    }  # fmt: skip
    back = e.CrmError.from_dict(event["error"])
    assert (type(back), str(back), back.request_id) == (e.CrmForbiddenError, str(error), "req-7")


def test_arguments_of_the_poll(monkeypatch: pytest.MonkeyPatch) -> None:
    poller = FakePoller(WaitResult(result={}))
    soon = pytest.approx(time.monotonic() + 5.0, abs=3.0)
    memory = {"errors_in_a_row": 2, "not_before": time.time() + 5.0, "last_result": "broken", "limit": 99}
    one = trigger(
        on_error={"LIMIT_EXCEEDED": "retry"}, policy_name="CrmListSensor", max_errors_in_a_row=4, memory=memory
    )
    events(one, poller, monkeypatch)
    [asked] = poller.asked
    assert asked["condition"] == ListExists(list_name="VIP")
    assert asked["interval"] == 60.0
    assert asked["waiting"] == WaitState(limit=4, errors_in_a_row=2, not_before=soon, last_result="broken")
    policy: ErrorPolicy = asked["policy"]
    assert policy.decide(e.CrmLimitExceededError("x")).action is Action.RETRY
    assert policy.decide(e.CrmSegmentationListNotFoundError("x")) == Decision(
        Action.WAIT, DecidedBy.OPERATOR, "SEGMENTATION_LIST_NOT_FOUND", "CrmListSensor"
    )


def test_timeout_event(monkeypatch: pytest.MonkeyPatch) -> None:
    found = events(trigger(memory={"last_result": "not yet."}), FakePoller(WaitResult()), monkeypatch)
    assert found == [{"last_result": "not yet.", "limit": "timeout"}]


def test_deadline_is_unchanged_by_recreation(monkeypatch: pytest.MonkeyPatch) -> None:
    poller = FakePoller(WaitResult())
    events(recreated(recreated(trigger(deadline=1234.5))), poller, monkeypatch)
    assert to_wall(poller.asked[0]["deadline"]) == pytest.approx(1234.5, abs=3.0)


def test_hanging_poll_does_not_extend_the_wait_beyond_its_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(poll, "PATIENCE", 0.1)
    poller = FakePoller()
    started = time.monotonic()
    found = events(trigger(deadline=time.time() + 0.1, memory={"last_result": "not yet."}), poller, monkeypatch)
    assert found == [{"last_result": "not yet.", "limit": "timeout"}]
    assert time.monotonic() - started >= 0.199, "the deadline was converted to another clock and back"
    assert poller.left == 1, "it has left the poll"


@pytest.mark.parametrize(
    ("deadline", "execution_deadline", "left"),
    [
        (100.0, None, (100.0 + poll.PATIENCE, "timeout")),
        (100.0, 20.0, (20.0, "execution_timeout")),
        (20.0, 20.0 + poll.PATIENCE, (20.0 + poll.PATIENCE, "timeout")),
        (20.0, 19.0 + poll.PATIENCE, (19.0 + poll.PATIENCE, "execution_timeout")),
        (100.0, -500.0, (0.0, "execution_timeout")),
        (-500.0, None, (poll.PATIENCE, "timeout")),
    ],
)
def test_earlier_limit_ends_the_wait(
    deadline: float, execution_deadline: float | None, left: tuple[float, str]
) -> None:
    now = 1_800_000_000.0
    limit = None if execution_deadline is None else now + execution_deadline
    assert poll.time_left(now + deadline, limit, now=now) == left


def test_execution_timeout_continues_across_a_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    """It passed while no triggerer was running, so the trigger does not even join the poll."""
    one = recreated(trigger(execution_deadline=time.time() - 1, memory={"last_result": "not yet."}))
    assert events(one, FakePoller(), monkeypatch) == [{"last_result": "not yet.", "limit": "execution_timeout"}]


def test_waiting_is_logged_periodically(monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[str] = []
    taken = 0
    second_line = asyncio.Event()

    threads: set[int] = set()
    loops: list[asyncio.AbstractEventLoop] = []

    def info(text: str, *values: Any) -> None:
        logged.append(text % values)
        threads.add(threading.get_ident())
        if len(logged) == 2:
            loops[0].call_soon_threadsafe(second_line.set)

    class UntilLogged(FakePoller):
        async def wait(self, condition: Condition, **arguments: Any) -> WaitResult:
            loops.append(asyncio.get_running_loop())
            arguments["waiting"].record_result("contacts found in the list: 1 of 2")
            await second_line.wait()
            return WaitResult(result={})

    def take() -> float:
        nonlocal taken
        taken += 1
        return 0.001

    monkeypatch.setattr(poll, "FIRST_REPORT", 0.001)
    monkeypatch.setattr(poll, "_turns", LoopRegistry(lambda _: SimpleNamespace(take=take)))
    monkeypatch.setattr(poll, "log", SimpleNamespace(info=info))
    assert events(trigger(), UntilLogged(), monkeypatch) == [{"result": {}}]
    line = "Still waiting.\nLast result:  not yet: contacts found in the list: 1 of 2."
    assert logged[:2] == [line] * 2
    assert taken >= 2, "each line waits for its turn"
    assert threading.get_ident() not in threads, "an unwritable line must not block the event loop"


def test_log_lines_of_many_tasks_are_spread_out() -> None:
    """Thousands of sensors deferred together would log together, and each line blocks the event loop."""
    now = 100.0
    turns = poll.ReportTurns(0.5, clock=lambda: now)
    assert [turns.take() for _ in range(3)] == [0.0, 0.5, 1.0]
    now = 101.25
    assert turns.take() == 0.25
    now = 200.0
    assert [turns.take() for _ in range(2)] == [0.0, 0.5], "unused turns do not accumulate"


def test_cancelled_trigger_leaves_the_poll(monkeypatch: pytest.MonkeyPatch) -> None:
    poller = FakePoller()
    monkeypatch.setattr(CrmPollTrigger, "_poller", lambda self, **_: poller)

    async def play() -> None:
        async def run() -> list[Any]:
            return [event async for event in trigger().run()]

        task = asyncio.create_task(run())
        await poller.joined.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(play())
    assert poller.left == 1


# -- the shared poll ----------------------------------------------------------------------------------------


def test_one_poll_per_connection_and_event_loop() -> None:
    async def pollers() -> list[Any]:
        names = ["one", "one", "other", "one"]
        return [trigger(crm_conn_id=name)._poller() for name in names]

    first, second, other, again = asyncio.run(pollers())
    assert first is second is again
    assert other is not first
    assert asyncio.run(pollers())[0] is not first


def test_sweeps_have_their_own_poll() -> None:
    """A sensor on one deal does not wait until all contacts are read."""

    async def pollers() -> list[Any]:
        return [trigger()._poller(sweeps=sweeps) for sweeps in (True, False, True)]

    sweeping, other, again = asyncio.run(pollers())
    assert sweeping is again
    assert other is not sweeping


def test_no_event_loop_is_kept_alive() -> None:
    async def use() -> None:
        trigger()._poller()

    before = len(poll._pollers)
    for _ in range(3):
        asyncio.run(use())
    gc.collect()
    assert len(poll._pollers) <= before


# -- the connection between rounds --------------------------------------------------------------------------


class FakeHook:
    """Reads settings from a list, one per round. An error in the list is raised."""

    def __init__(self, *script: Settings | Exception) -> None:
        self._script: Iterator[Settings | Exception] = iter(script)

    async def aget_settings(self) -> Settings:
        found = next(self._script)
        if isinstance(found, Exception):
            raise found
        return found

    def client_for(self, settings: Settings, *, transport: Any, budget: Any) -> CrmClient:
        return CrmClient(settings, transport=transport, budget=budget)


def clients(*script: Settings | Exception, at_once: bool = False) -> list[CrmClient | type[Exception]]:
    """The client of each round, or the class of the error."""
    connection = SharedConnection("crm_default")
    connection._hook = FakeHook(*script)  # type: ignore[assignment]

    async def one() -> CrmClient | type[Exception]:
        try:
            return await connection.client()
        except e.CrmError as error:
            return type(error)

    async def rounds() -> list[CrmClient | type[Exception]]:
        return list(await asyncio.gather(*[one() for _ in script])) if at_once else [await one() for _ in script]

    return asyncio.run(rounds())


OLD, NEW = (Settings(api_key=key, base_url="http://127.0.0.1:9/v2") for key in ("old", "new"))
MISSING = e.CrmConfigurationError("Airflow has no connection 'crm_default'")


@pytest.mark.parametrize("at_once", [False, True])
def test_client_is_kept_while_the_connection_is_unchanged(at_once: bool) -> None:
    first, second = clients(OLD, OLD.with_(), at_once=at_once)
    assert first is second


def test_changed_key_creates_a_new_client() -> None:
    first, second, third = clients(OLD, NEW, NEW)
    assert isinstance(first, CrmClient)
    assert isinstance(second, CrmClient)
    assert (first.settings.api_key, second.settings.api_key) == ("old", "new")
    assert second is third


@pytest.mark.parametrize(("changes", "share"), [({}, 0.5), ({"poll_share": 0.05}, 0.05), ({"poll_share": 1}, 1.0)])
def test_waiting_uses_its_share_of_the_rate(changes: dict[str, Any], share: float) -> None:
    [client] = clients(OLD.with_(**changes))
    assert isinstance(client, CrmClient)
    limiter: Any = client._transport._limiter
    assert 1 / limiter._own.spacing == pytest.approx(OLD.requests_per_second * share, rel=0.02)


def test_old_client_is_closed_when_unused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key changes while a round still reads with the old one in its thread."""
    closed: list[str] = []
    monkeypatch.setattr(Transport, "close", lambda self: closed.append(self._http._settings.api_key))
    used = clients(OLD, NEW)
    round_ = CachedLookup(used[0])  # type: ignore[arg-type]
    used.pop(0)
    gc.collect()
    assert closed == []
    del round_
    gc.collect()
    assert closed == ["old"]


def test_temporarily_unreadable_connection_ends_no_wait() -> None:
    first, *others, last = clients(OLD, *[MISSING] * UNREAD_IN_A_ROW, OLD)
    assert {id(client) for client in [*others, last]} == {id(first)}


def test_deleted_connection_ends_the_wait() -> None:
    assert clients(OLD, *[MISSING] * (UNREAD_IN_A_ROW + 1))[-1] is e.CrmConfigurationError
    assert clients(MISSING) == [e.CrmConfigurationError], "from the start"
