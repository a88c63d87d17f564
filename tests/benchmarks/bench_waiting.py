"""What waiting costs: one poll for all who wait, next to a poll for each, side by side against the sandbox.

    python tests/benchmarks/bench_waiting.py [--seconds 20] [--waiters 10 1000 10000] [--write docs/sensors.md]

Each line of the table is a process of its own, with so many :class:`CrmPollTrigger` at work as in a triggerer (without
Airflow's own cost of a trigger). All wait for one list. After the measured time the list appears: how many have
noticed after one interval and a bit? The CRM's limit is the real one, 5 calls a second; all pollers of a process share
its pacing, which is kinder to "a poll for each" than several processes would be.

With ``--write`` the table replaces what is between ``<!-- measured: waiting -->`` and ``<!-- measured: end -->``.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import re
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from measured_child import next_line, tell

INTERVAL = 10.0
PATIENCE = INTERVAL + 5.0
"""Seconds that the waiters have for noticing."""

SHARED, OWN = "one poll for all", "a poll for each"
MOST_OWN = 1_000
MARKS = re.compile(r"(<!-- measured: waiting -->\n).*?(<!-- measured: end -->)", re.DOTALL)


@dataclass(frozen=True)
class Figures:
    """One line of the table."""

    way: str
    waiters: int
    calls_per_minute: float
    refused: int
    cpu_percent: float
    megabytes: float
    noticed: int
    seconds_to_notice: float | None


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20.0, help="measured time of each line (default: %(default)s)")
    parser.add_argument("--waiters", type=int, nargs="+", default=[10, 1_000, 10_000])
    parser.add_argument("--write", type=Path, help="a document with the marks")
    parser.add_argument("--child", nargs=2, metavar=("WAY", "WAITERS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        asyncio.run(wait_and_tell(options.child[0], int(options.child[1]), options.seconds))
        return
    lines = []
    for waiters in options.waiters:
        for way in (SHARED, OWN) if waiters <= MOST_OWN else (SHARED,):
            lines.append(measure(way, waiters, options.seconds))
            print(lines[-1], file=sys.stderr, flush=True)
    text = table(lines, options.seconds)
    print(text)
    if options.write:
        document = options.write.read_text(encoding="utf-8")
        if not MARKS.search(document):
            sys.exit(f"{options.write} has no markers <!-- measured: waiting --> and <!-- measured: end -->")
        options.write.write_text(MARKS.sub(lambda marks: f"{marks[1]}{text}\n{marks[2]}", document), encoding="utf-8")


# -- the parent: the CRM, and what it saw ---------------------------------------------------------------------


def measure(way: str, waiters: int, seconds: float) -> Figures:
    """Run one line's process against a fresh sandbox."""
    from crm_provider.sandbox import Sandbox

    with Sandbox(seed="demo", journal_size=100_000) as crm, tempfile.TemporaryDirectory() as home:
        env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")},
            "AIRFLOW_HOME": home,
            "AIRFLOW_CONN_CRM_DEFAULT": crm.connection_json(),
            "NO_PROXY": "127.0.0.1",
        }
        command = [sys.executable, __file__, "--seconds", str(seconds), "--child", way, str(waiters)]
        with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as child:
            next_line(child, "begin")
            before = crm.counters()
            told = next_line(child, "measured")
            after = crm.counters()
            crm.store.add_list("Late")
            told |= next_line(child, "noticed")
    return Figures(
        way=way,
        waiters=waiters,
        calls_per_minute=(after.total - before.total) / seconds * 60,
        refused=after.throttled - before.throttled,
        cpu_percent=told["cpu"] / seconds * 100,
        megabytes=told["kb"] / 1024,
        noticed=told["noticed"],
        seconds_to_notice=told["seconds"],
    )


# -- the child: the waiters -----------------------------------------------------------------------------------


async def wait_and_tell(way: str, waiters: int, seconds: float) -> None:
    """Be the triggerer: wait with so many, and tell the parent what it cost."""
    from crm_provider.triggers.poll import CrmPollTrigger
    from crm_provider.waiting import poller
    from crm_provider.waiting.conditions import ListExists

    poller.OFFSET = 0.0  # else nobody knows where the middle between two rounds is

    noticed: list[float] = []

    async def wait() -> None:
        trigger = CrmPollTrigger(
            condition=ListExists(list_name="Late").as_data(),
            crm_conn_id="crm_default",
            poke_interval=INTERVAL,
            deadline=time.time() + 3600,
            policy_name="CrmListSensor",
            share_poll=way == SHARED,
        )
        async for event in trigger.run():
            if "answer" in event.payload:
                noticed.append(time.monotonic())

    empty = memory_kb()
    tasks = [asyncio.create_task(wait()) for _ in range(waiters)]
    # one whole round, to have all made that is made once; to the middle between two rounds
    await asyncio.sleep(2.5 * INTERVAL - time.time() % INTERVAL)
    tell("begin")
    cpu = time.process_time()
    await asyncio.sleep(seconds)
    tell("measured", cpu=time.process_time() - cpu, kb=memory_kb() - empty)
    appeared = time.monotonic()
    await asyncio.wait(tasks, timeout=PATIENCE)
    tell("noticed", noticed=len(noticed), seconds=max(noticed) - appeared if noticed else None)
    os._exit(0)  # threads of pollers that wait for their turn would keep it alive


def memory_kb() -> float:
    """Resident memory (Linux; elsewhere its greatest so far)."""
    status = Path("/proc/self/statm")
    if status.exists():
        return int(status.read_text().split()[1]) * resource.getpagesize() / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


# -- the table ------------------------------------------------------------------------------------------------


def table(lines: list[Figures], seconds: float) -> str:
    """The lines as Markdown, and each way to the other of the same number of waiters."""
    head = ["Waiters", "Way", "Calls a minute", "Refused", "CPU", "Memory", "Noticed in time", "Last after"]
    rows = [head, ["---"] * len(head)]
    for line in lines:
        last = "-" if line.seconds_to_notice is None else f"{line.seconds_to_notice:.1f} s"
        rows.append(
            [
                f"{line.waiters:,}",
                line.way,
                f"{line.calls_per_minute:.0f}",
                f"{line.refused}",
                f"{line.cpu_percent:.1f} %",
                f"{line.megabytes:.1f} MB",
                f"{line.noticed / line.waiters:.0%}",
                last,
            ]
        )
    about = (
        f"Interval {INTERVAL:.0f} s, {seconds:.0f} s measured, limit 5 calls a second, "
        f"Python {platform.python_version()}, {os.cpu_count()} cores. "
        f"In time: within the interval and {PATIENCE - INTERVAL:.0f} s. Memory: what came on top of the imports."
    )
    return "\n".join(["| " + " | ".join(row) + " |" for row in rows] + ["", *ratios(lines), about])


def ratios(lines: list[Figures]) -> list[str]:
    """What a poll for each costs of what one for all does."""
    by = {(line.way, line.waiters): line for line in lines}
    found = []
    for (way, waiters), own in by.items():
        one = by.get((SHARED, waiters))
        if way == OWN and one is not None and one.calls_per_minute and one.cpu_percent and one.megabytes > 0:
            calls = own.calls_per_minute / one.calls_per_minute
            cpu = own.cpu_percent / one.cpu_percent
            memory = own.megabytes / one.megabytes
            found.append(
                f"- {waiters:,} waiters, a poll for each against one for all: {calls:.0f} x the calls, "
                f"{cpu:.0f} x the CPU, {memory:.1f} x the memory."
            )
    return [*found, ""] if found else []


if __name__ == "__main__":
    main()
