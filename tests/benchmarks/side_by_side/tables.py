"""The measurements as Markdown."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from importlib.metadata import version

from side_by_side.faults import Wrong, proxy_script, script
from side_by_side.figures import BURST, LATENCY, LEAST_ROWS, MANY, RATE, WARM_UP, Bar, Load
from side_by_side.leads import CHANGED, EXISTING, LATER
from side_by_side.overhead import Cost
from side_by_side.waiting import INTERVAL, Waited
from side_by_side.ways import Way


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def where() -> str:
    """The date, the versions and the machine."""
    packages = ", ".join(
        f"{name} {version(package)}"
        for name, package in (("Airflow", "apache-airflow-core"), ("HTTP provider", "apache-airflow-providers-http"))
    )
    return (
        f"Measured on {datetime.now(timezone.utc):%Y-%m-%d} with {packages}, Python {platform.python_version()}, "
        f"{platform.machine()}, {os.cpu_count()} cores."
    )


def loads(ways: Sequence[Way], first: Sequence[Load], again: Sequence[Load], fewest: int) -> list[str]:
    """Cost of the file with each client."""
    rows = max(load.rows for load in first)
    about = (
        f"A file of {rows:,} rows. The CRM has {EXISTING:.0%} of them, and {CHANGED:.0%} of those differ. The clients "
        f"do not know this beforehand, so at least {fewest:,} calls are needed ({fewest / rows:.2f} per row). A day "
        f"later {LATER:.0%} of the rows have changed. {RATE:g} calls per second, burst {BURST}, "
        f"{1000 * LATENCY:.0f} ms per call. The share of the limit leaves out the first {WARM_UP:g} s."
    )
    day = "A day later: "
    lines = [
        line("Rows measured", first, lambda one: f"{one.rows:,}"),
        line("Calls", first, lambda one: f"{one.calls:,}"),
        line("Calls per row", first, lambda one: f"{one.calls_per_row:.2f}"),
        line("Calls refused with 429", first, lambda one: f"{one.refused}"),
        line("Share of the limit used", first, lambda one: "-" if one.share is None else f"{one.share:.1%}"),
        line(f"Time for {MANY:,} rows", first, lambda one: f"{one.hours:.1f} h"),
        line(f"Processor time for {MANY:,} rows", first, lambda one: f"{one.cpu_minutes:,.0f} min"),
        line("Memory over an empty task, at most", first, lambda one: f"{one.peak_mb - one.base_mb:.0f} MB"),
        line("Lines of code to write", ways, lambda one: str(one.lines)),
        line(f"{day}calls", again, lambda one: f"{one.calls:,}"),
        line(f"{day}calls per row", again, lambda one: f"{one.calls_per_row:.3f}"),
        line(f"{day}time for {MANY:,} rows", again, lambda one: f"{one.hours:.1f} h"),
    ]
    return [about, table(["", *(way.name for way in ways)], lines), against_loop(first, again)]


def line(title: str, values: Sequence[object], show: Callable[..., str]) -> list[str]:
    return [title, *(show(value) for value in values)]


def against_loop(first: Sequence[Load], again: Sequence[Load]) -> str:
    """The ratios, which hold on any machine."""
    _, loop, ours = first
    _, loop_again, ours_again = again
    fewer, fewer_again = (
        one.calls_per_row / other.calls_per_row for one, other in ((loop, ours), (loop_again, ours_again))
    )
    return (
        f"Compared with the loop, the load makes 1/{fewer:.1f} of the calls per row and takes "
        f"1/{loop.hours / ours.hours:.1f} of the time, and a day later 1/{fewer_again:.0f} of the calls and "
        f"1/{loop_again.hours / ours_again.hours:.0f} of the time."
    )


def faults(ways: Sequence[Way], mixed: Sequence[Wrong], proxy: Sequence[Wrong]) -> list[str]:
    """The wrong outcomes."""
    cases = script()
    hopeless = sum(not case.can_be_loaded for case in cases)
    struck = sum(bool(case.faults) and case.can_be_loaded for case in cases)
    about = (
        f"All three face the same faults. In a file of {len(cases)} rows, {struck} rows have one fault each, and "
        f"{hopeless} cannot be loaded at all, so the run must fail. In a file of {len(proxy_script())} rows, a proxy "
        "responds to one call with its own page and status 200. Wrong outcomes of both files are: rows lost without an "
        "error, loaded rows reported as failed, created contacts not counted as created, and each run that succeeds "
        "although rows are missing."
    )
    lines = [
        line("Rows lost without an error", mixed, lambda one: str(one.lost)),
        line("Loaded rows that are reported as failed", mixed, lambda one: str(one.false_alarms)),
        line("Created contacts that are not counted as created", mixed, lambda one: str(one.miscounted)),
        line("Rejected rows that the CRM would have accepted", mixed, lambda one: str(one.given_up)),
        line("Final state of the run", mixed, lambda one: one.state),
        line("A proxy's page: rows lost without an error", proxy, lambda one: str(one.lost)),
        line("A proxy's page: final state of the run", proxy, ending),
        line("Wrong outcomes in total", list(zip(mixed, proxy, strict=True)), lambda both: str(wrong(*both))),
    ]
    return [about, table(["", *(way.name for way in ways)], lines)]


def wrong(*found: Wrong) -> int:
    return sum(one.outcomes for one in found)


def ending(one: Wrong) -> str:
    left = f", and reports that {one.left} row{'s are' if one.left > 1 else ' is'} left" if one.left else ""
    return f"{one.state}{left}"


def overhead(costs: Sequence[Cost]) -> list[str]:
    """Overhead of the client per call."""
    bare, *_ = costs
    lines = [
        [cost.way, f"{cost.wall_ms:.2f} ms", f"{cost.cpu_ms:.2f} ms", f"{cost.cpu_ms - bare.cpu_ms:+.2f} ms"]
        for cost in costs
    ]
    about = "A `GET` of one contact from a server on the same machine, without a limit:"
    return [about, table(["Client", "Time", "Processor time", "Processor time over the bare session"], lines)]


def waiting(found: Sequence[Waited]) -> list[str]:
    """Cost of waiting."""
    lines = [
        [
            f"{one.waiters:,}",
            one.way,
            f"{one.calls_per_minute:,.0f}",
            f"{one.refused_per_minute:,.0f}",
            f"{one.cpu_percent:.1f} %",
            f"{one.noticed / one.waiters:.0%}",
        ]
        for one in found
    ]
    about = (
        f"Deferred sensors that wait for one contact, interval {INTERVAL:g} s, limit {RATE:g} calls per second. "
        "*In time*: noticed within the interval plus 5 s."
    )
    return [about, table(["Waiting", "Sensor", "Calls per minute", "Refused", "Processor", "In time"], lines)]


def bars(found: Sequence[Bar]) -> list[str]:
    """The targets of the load. The command fails if one is missed."""
    about = f"Targets of the load (with {LEAST_ROWS:,} rows or more):"
    return [about, table(["Target", "Measured", "Result"], [[bar.name, bar.measured, bar.verdict] for bar in found])]
