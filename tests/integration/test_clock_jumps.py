"""The wall clock is set while sensors wait: the poll goes on as if nothing had been."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from crm_provider.errors.on_error import Work
from crm_provider.errors.policy import ErrorPolicy
from crm_provider.waiting.backoff import Waiting, to_steady
from crm_provider.waiting.conditions import ListExists
from crm_provider.waiting.poller import Poller, WaitResult

DAY = 24 * 3600.0


class Crm:
    """One list that comes late."""

    def __init__(self) -> None:
        self.looks = 0
        self.looked, self.loop = asyncio.Event(), asyncio.get_running_loop()
        self.lists: list[dict[str, str]] = []

    def list_segmentation_lists(self) -> Iterator[dict[str, str]]:
        self.looks += 1
        self.loop.call_soon_threadsafe(self.looked.set)
        yield from self.lists


@pytest.mark.reliability("process")
@pytest.mark.parametrize("seconds", [-DAY, DAY])
def test_a_poll_goes_on_and_keeps_its_deadline(
    seconds: float, monkeypatch: pytest.MonkeyPatch, observed: Callable[..., None]
) -> None:
    true, defaults = time.time, Poller.__init__.__kwdefaults__
    if defaults["clock"] is true:  # it was bound before this test could take its place
        monkeypatch.setitem(defaults, "clock", lambda: time.time())  # noqa: PLW0108 - whatever it is then

    async def nap(_: float) -> None:
        """The poller sleeps for at most a second; its clock goes on by itself."""
        await asyncio.sleep(0.01)

    async def play() -> tuple[WaitResult, WaitResult]:
        crm = Crm()

        async def connect() -> Any:
            return crm

        poller = Poller(connect, sleep=nap)
        deadline = to_steady(time.time() + 1.5)
        arguments: dict[str, Any] = {"interval": 1.0, "policy": ErrorPolicy(work=Work.SENSOR, operator="CrmListSensor")}
        late = asyncio.create_task(poller.wait(ListExists(list_name="late"), waiting=Waiting(), **arguments))
        in_vain = asyncio.create_task(
            poller.wait(ListExists(list_name="never"), waiting=Waiting(), deadline=deadline, **arguments)
        )
        await crm.looked.wait()
        monkeypatch.setattr(time, "time", lambda: true() + seconds)
        crm.lists.append({"id": "1", "name": "late"})
        ends = await late, await in_vain
        assert crm.looks <= 5, "no burst either"
        return ends

    found, nothing = asyncio.run(asyncio.wait_for(play(), 60))
    assert found.result is not None
    assert nothing == WaitResult()
    observed(
        fault="the clock changes by a day, back or forth",
        hits="deferred sensor",
        ends="the same as without the fault: success, or its timeout",
        requests="one check per interval, as without the fault",
        data="read only",
        remedy="nothing",
    )
