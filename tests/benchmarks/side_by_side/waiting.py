"""Many sensors wait for one contact: their calls, compared with those of the HTTP provider's `HttpSensor`.

    python waiting.py WAY WAITERS SECONDS      the process that waits, like a triggerer

Both are deferred. Only the work of their triggers is measured, without Airflow's own cost of a trigger.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measured_child import next_line, report

BENCHMARKS = Path(__file__).resolve().parents[1]
INTERVAL = 10.0
PATIENCE = INTERVAL + 5.0
"""Seconds in which the waiters must notice the contact."""

EMAIL = "late@example.com"
OURS, HTTP = "`CrmContactSensor`", "`HttpSensor`"


@dataclass(frozen=True, kw_only=True)
class Waited:
    """The measurements of some waiters.

    :param noticed: waiters that noticed the contact within an interval and a margin
    """

    way: str
    waiters: int
    calls_per_minute: float
    refused_per_minute: float
    cpu_percent: float
    noticed: int


def wait(way: str, waiters: int, seconds: float) -> Waited:
    """Run this many waiters in another process and count their calls."""
    from crm_provider.sandbox import Sandbox
    from side_by_side.ways import environment, home

    with Sandbox(seed="empty", api_key=f"wait-{way}-{waiters}-{os.getpid()}", journal_size=10) as crm, home() as folder:
        command = [sys.executable, "-m", "side_by_side.waiting", way, str(waiters), str(seconds)]
        with subprocess.Popen(
            command,
            cwd=BENCHMARKS,
            env=environment(folder, crm),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as child:
            next_line(child, "begin")
            before = crm.counters()
            measured = next_line(child, "measured")
            after = crm.counters()
            crm.store.create_contact(EMAIL)
            measured |= next_line(child, "noticed")
    return Waited(
        way=way,
        waiters=waiters,
        calls_per_minute=(after.total - before.total) / measured["seconds"] * 60,
        refused_per_minute=(after.throttled - before.throttled) / measured["seconds"] * 60,
        cpu_percent=measured["cpu"] / measured["seconds"] * 100,
        noticed=measured["noticed"],
    )


# -- the child -----------------------------------------------------------------------------------------------


async def be_the_triggerer(way: str, waiters: int, seconds: float) -> None:
    noticed: list[float] = []

    async def watch() -> None:
        async for event in events(way):
            if event.payload is True or "answer" in event.payload:
                noticed.append(time.monotonic())

    tasks = [asyncio.create_task(watch()) for _ in range(waiters)]
    await asyncio.sleep(1.5 * INTERVAL)  # a complete round, so that one-time costs are over
    report("begin")
    started, cpu = time.monotonic(), time.process_time()
    await asyncio.sleep(seconds)
    report("measured", cpu=time.process_time() - cpu, seconds=time.monotonic() - started)
    await asyncio.wait(tasks, timeout=PATIENCE)
    report("noticed", noticed=len(noticed))
    os._exit(0)  # threads of waiting pollers would keep the process alive


def events(way: str) -> AsyncIterator[Any]:
    """The events of a waiter's trigger after the contact exists."""
    if way == HTTP:
        from airflow.providers.http.triggers.http import HttpSensorTrigger

        headers = {"x-api-key": json.loads(os.environ["AIRFLOW_CONN_CRM_HTTP"])["password"]}
        return HttpSensorTrigger(
            endpoint=f"contacts/{EMAIL}", http_conn_id="crm_http", headers=headers, poke_interval=INTERVAL
        ).run()
    from crm_provider.triggers.poll import CrmPollTrigger
    from crm_provider.waiting.conditions import ContactIs

    return CrmPollTrigger(
        condition=ContactIs(email=EMAIL).as_data(),
        crm_conn_id="crm_default",
        poke_interval=INTERVAL,
        deadline=time.time() + 3600,
        policy_name="CrmContactSensor",
    ).run()


if __name__ == "__main__":
    from side_by_side.worker import end_with_parent

    end_with_parent()
    asyncio.run(be_the_triggerer(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
