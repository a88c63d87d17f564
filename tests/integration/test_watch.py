"""Triggers of asset watchers against the sandbox, with a store that outlives the triggerer."""

from __future__ import annotations

import asyncio
import json
import math
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from crm_provider import _compat
from crm_provider.client.client import CrmClient
from crm_provider.sandbox.ids import contact_id, deal_id, list_id, pipeline_id, stage_id
from crm_provider.triggers import cursor, watch
from crm_provider.triggers.watch import CrmDealStageTrigger, CrmListJoinedTrigger

pytestmark = pytest.mark.usefixtures("no_loop_logs")

if TYPE_CHECKING:
    from airflow.triggers.base import BaseEventTrigger

    from crm_provider.sandbox import Sandbox

NEWSLETTER, TRIAL = list_id("Newsletter"), list_id("Trial users")
NEW, WON = stage_id("Sales", "New"), stage_id("Sales", "Won")
DELIVERY_DELAY = 0.1
INTERVAL = 0.2


@pytest.fixture(autouse=True)
def _supervisor_channel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Airflow 3.1.0 needs the triggerer's supervisor channel even for connections of the environment."""
    from airflow.sdk.execution_time import task_runner

    if not hasattr(task_runner, "SUPERVISOR_COMMS"):
        monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", None, raising=False)


class FakeStore:
    """The state store of an asset, which Airflow 3.3 passes to a trigger."""

    def __init__(self) -> None:
        self.kept: dict[str, Any] = {}
        self.refuses = False

    async def aget(self, key: str, default: Any = None) -> Any:
        self._check()
        return self.kept.get(key, default)

    async def aset(self, key: str, value: Any) -> None:
        self._check()
        self.kept[key] = json.loads(json.dumps(value))

    def _check(self) -> None:
        if self.refuses:
            from airflow.sdk.execution_time.comms import ErrorResponse

            raise _compat.AirflowRuntimeError(ErrorResponse(detail={"message": "the database is away"}))


class Triggerer:
    """Runs triggers. Leaving the block acts like a SIGKILL: only their stores remain."""

    def __init__(self) -> None:
        self.payloads: list[dict[str, Any]] = []
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, trigger: BaseEventTrigger, store: FakeStore | None = None) -> None:
        if store is not None:
            trigger.asset_state_store = store  # type: ignore[assignment]
        self._tasks.append(asyncio.create_task(self._collect(trigger)))

    async def _collect(self, trigger: BaseEventTrigger) -> None:
        async for event in trigger.run():
            self.payloads.append(event.payload)

    async def until(self, condition: Callable[[], Any], seconds: float = 300.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            for task in self._tasks:
                assert not task.done(), task.exception()
            assert time.monotonic() < deadline, self.payloads
            await asyncio.sleep(0.02)

    async def __aenter__(self) -> Triggerer:
        return self

    async def __aexit__(self, *error: object) -> None:
        for task in self._tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


@pytest.fixture
def crm(crm: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    """A CRM with five sweeps per second."""
    monkeypatch.setattr(cursor, "DELIVERY_DELAY", DELIVERY_DELAY)
    monkeypatch.setattr(watch, "SHORTEST_INTERVAL", INTERVAL)
    monkeypatch.setenv("AIRFLOW_CONN_CRM_DEFAULT", connection(crm))
    return crm


def connection(crm: Sandbox) -> str:
    return crm.connection_json(rate_store="off", requests_per_second=1000)


def joined(**changes: Any) -> CrmListJoinedTrigger:
    return CrmListJoinedTrigger(**{"list_id": TRIAL, "poke_interval": INTERVAL, **changes})


def join(crm: Sandbox, *names: str) -> None:
    for name in names:
        crm.store.add_to_lists(f"{name}@example.com", [TRIAL])


def people(*names: str) -> list[str]:
    return [contact_id(f"{name}@example.com") for name in names]


def contacts(triggerer: Triggerer) -> list[str]:
    return [contact for payload in triggerer.payloads for contact in payload["contact_ids"]]


def sweeps(crm: Sandbox, route: str = "/contacts") -> int:
    """The number of sweeps that were started."""
    records = len(crm.store.contacts) if route == "/contacts" else len(crm.store.deals)
    return math.ceil(len(crm.journal(route=route)) / max(math.ceil(records / 10), 1))


def swept(crm: Sandbox, more: int = 2) -> Callable[[], bool]:
    """A condition that holds once ``more`` further sweeps have started. All of them but the last have ended."""
    wanted = sweeps(crm) + more
    return lambda: sweeps(crm) >= wanted


# -- events


def test_watch_reports_deals_that_enter_a_stage(crm: Sandbox) -> None:
    deal = deal_id(contact_id("ada@example.com"))

    async def scenario() -> None:
        async with Triggerer() as triggerer:
            triggerer.start(CrmDealStageTrigger(stage_id=WON.upper(), poke_interval=INTERVAL), FakeStore())
            await triggerer.until(lambda: sweeps(crm, "/deals") >= 2)
            crm.store.update_deal(deal, stage_id=WON)
            await triggerer.until(lambda: triggerer.payloads)
            owner = contact_id("alan@example.com")
            made = crm.store.create_deal(contact_id=owner, pipeline_id=pipeline_id("Sales"), stage_id=WON)
            await triggerer.until(lambda: len(triggerer.payloads) > 1)
            assert triggerer.payloads == [{"deal_ids": [each], "stage_id": WON.upper()} for each in (deal, made.id)]
            crm.store.update_deal(deal, stage_id=NEW)
            start = sweeps(crm, "/deals")
            await triggerer.until(lambda: sweeps(crm, "/deals") >= start + 2)
            crm.store.update_deal(deal, stage_id=WON)  # a second time
            await triggerer.until(lambda: len(triggerer.payloads) > 2)

    asyncio.run(scenario())


# -- shared sweeps


@pytest.mark.reliability("process")
@pytest.mark.parametrize("seconds", [-86400.0, 86400.0])
def test_watch_continues_after_a_clock_change(
    crm: Sandbox, monkeypatch: pytest.MonkeyPatch, seconds: float, observed: Callable[..., None]
) -> None:
    async def scenario() -> None:
        async with Triggerer() as triggerer:
            triggerer.start(joined(), FakeStore())
            await triggerer.until(swept(crm))
            true, began, before = time.time, time.monotonic(), sweeps(crm)
            monkeypatch.setattr(time, "time", lambda: true() + seconds)
            join(crm, "ada")
            await triggerer.until(lambda: triggerer.payloads)
            await triggerer.until(swept(crm, 3))
            assert contacts(triggerer) == people("ada")
            assert sweeps(crm) - before <= (time.monotonic() - began) / INTERVAL + 2

    asyncio.run(scenario())
    observed(
        fault="the clock changes by a day, back or forth",
        hits="asset watcher",
        ends="continues",
        requests="one sweep per interval, as without the fault",
        data="each new member reported once",
        remedy="nothing",
    )


def test_cancelled_watch_stops_reading(crm: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(200):
        crm.store.create_contact(email=f"more-{number}@example.com", attributes={})
    page, cancelled = CrmClient._page, threading.Event()

    def waits(self: CrmClient, route: str, number: int, **options: Any) -> Any:
        if number:
            assert cancelled.wait(60)
        return page(self, route, number, **options)

    monkeypatch.setattr(CrmClient, "_page", waits)

    async def scenario() -> None:
        async with Triggerer() as triggerer:
            triggerer.start(joined(), FakeStore())
            await triggerer.until(lambda: crm.journal(route="/contacts"))
        cancelled.set()

    asyncio.run(scenario())  # waits for the thread that reads
    assert len(crm.journal()) <= 2, "at most the next of 22 pages is read"


# -- Airflow's interface of triggers


@pytest.mark.parametrize(
    "trigger",
    [joined(poke_interval=30), CrmDealStageTrigger(stage_id=WON, crm_conn_id="other", include_existing=True)],
    ids=lambda trigger: type(trigger).__name__,
)
def test_watch_trigger_can_be_serialized(trigger: BaseEventTrigger) -> None:
    path, arguments = trigger.serialize()
    assert path == f"crm_provider.triggers.watch.{type(trigger).__name__}"
    again = type(trigger)(**json.loads(json.dumps(arguments)))
    assert again.serialize() == (path, arguments)


@pytest.mark.parametrize(
    "changes",
    [
        {"list_id": "Newsletter"},
        {"poke_interval": 0},
        {"poke_interval": float("nan")},
        {"poke_interval": float("inf")},
        {"max_per_event": 0},
        {"max_per_event": 501},
    ],
)
def test_invalid_watch_arguments_are_rejected_at_parse(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        CrmListJoinedTrigger(**{"list_id": TRIAL, **changes})
