"""Cost of a load of 2,000 deals, 70 % of them in their stage already, compared with a loop with ``requests``.

    python tests/benchmarks/bench_load_deals.py [--rows 2000] [--write docs/load-deals.md]

Both run at the same time, each against its own sandbox (5 calls per second, burst 2, 200 ms a call). The minimum is
one call for ten deals and one for each deal to move. The command fails if the load makes more than 2 % over the
minimum, or uses less than 98 % of the limit. With ``--write`` the table replaces the text between
``<!-- measured: load of deals -->`` and ``<!-- measured: end -->``.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import platform
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from bench_load import load_client, table

from crm_provider.errors.on_error import Work
from crm_provider.errors.policy import ErrorPolicy
from crm_provider.load.job import LoadJob
from crm_provider.load.kinds.deals import DEALS
from crm_provider.load.sources.source import open_source
from crm_provider.load.workers import CancelToken
from crm_provider.rate_limit.limiter import ProcessRateLimiter
from crm_provider.sandbox import Sandbox, ids

RATE, BURST, LATENCY = 5.0, 2, 0.2
THERE = 0.7
"""The share of deals that are in their stage already."""

NEW, WON = ids.stage_id("Sales", "New"), ids.stage_id("Sales", "Won")
MAPPING: dict[str, Any] = {"deal_id": "deal", "stage_id": {"constant": WON}}
MARKS = re.compile(r"(<!-- measured: load of deals -->\n).*?(<!-- measured: end -->)", re.DOTALL)


@dataclass(frozen=True)
class Cost:
    """The measurements of the loop or the load.

    :param refused: calls refused by the rate limit
    :param seconds: duration of the calls, without the check of the rows
    """

    calls: int
    refused: int
    seconds: float

    @property
    def share(self) -> float:
        return (self.calls - self.refused) / (RATE * self.seconds)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=2_000)
    parser.add_argument("--write", type=Path, help="a document with the marks")
    options = parser.parse_args()
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        ways = [pool.submit(way, options.rows) for way in (by_load, by_loop)]
        load, loop = (one.result() for one in ways)
    minimum = -(-options.rows // 10) + options.rows - round(options.rows * THERE)
    lines = [
        line(name, cost, options.rows, minimum) for name, cost in (("a loop with `requests`", loop), ("a load", load))
    ]
    head = ["", "Calls", "Calls per row", "Over the minimum", "Refused (429)", "Share of the limit", "Time"]
    text = f"{options.rows:,} deals, {THERE:.0%} of them in their stage already; the minimum is {minimum:,} calls "
    text += f"({time.strftime('%Y-%m-%d')}, Python {platform.python_version()}):\n\n"
    text += table(head, lines)
    print(text)
    if options.write:
        found = options.write.read_text(encoding="utf-8")
        options.write.write_text(MARKS.sub(lambda m: f"{m[1]}\n{text}\n\n{m[2]}", found), encoding="utf-8")
    is_cheap = load.calls <= 1.02 * minimum
    is_quick = load.share >= 0.98
    print(f"calls within 2 % of the minimum: {is_cheap}; at least 98 % of the limit: {is_quick}")
    return 0 if is_cheap and is_quick else 1


def line(name: str, cost: Cost, rows: int, minimum: int) -> list[str]:
    return [
        name, f"{cost.calls:,}", f"{cost.calls / rows:.2f}", f"{cost.calls / minimum - 1:+.1%}", f"{cost.refused:,}",
        f"{cost.share:.1%}", f"{cost.seconds:,.0f} s",
    ]  # fmt: skip


def crm_with_deals(sandbox: Sandbox, count: int) -> list[str]:
    """Create the deals and return their ids. Those in their stage are spread over the listing."""
    found = []
    for number in range(count):
        contact = sandbox.store.create_contact(f"p{number}@example.com")
        is_there = (number * 7) % 10 < 10 * THERE
        deal = sandbox.store.create_deal(
            contact_id=contact.id, pipeline_id=ids.pipeline_id("Sales"), stage_id=WON if is_there else NEW
        )
        found.append(deal.id)
    sandbox.add_fault(effect="latency", latency=LATENCY)
    return found


def by_load(count: int) -> Cost:
    with Sandbox(rate=RATE, burst=BURST) as sandbox:
        deals = crm_with_deals(sandbox, count)
        cancel_token = CancelToken()
        with load_client(sandbox, ProcessRateLimiter(RATE, BURST), cancel_token) as (client, stats):
            given = {"mapping": MAPPING, "mode": "move"}
            summary = LoadJob(
                source=open_source([{"deal": deal} for deal in deals]),
                kind=DEALS,
                mapper=DEALS.mapper_of(given),
                client=client,
                stats=stats,
                options=DEALS.options_of(given),
                policy=ErrorPolicy(work=Work.LOAD, operator="CrmLoadDealsOperator(mode='move')"),
                rate=RATE,
                cancel_token=cancel_token,
            ).run()
        assert {deal.stage_id for deal in sandbox.store.deals.values()} - {NEW} == {WON}
        return Cost(summary.calls, sandbox.counters().throttled, summary.seconds)


def by_loop(count: int) -> Cost:
    """One PUT per row, at the speed of the limit."""
    with Sandbox(rate=RATE, burst=BURST) as sandbox:
        deals, started = crm_with_deals(sandbox, count), time.monotonic()
        with requests.Session() as session:
            session.headers["x-api-key"] = "sandbox-key"
            for deal in deals:
                put(session, f"{sandbox.url}/deals/{deal}")
        counters = sandbox.counters()
        return Cost(counters.total, counters.throttled, time.monotonic() - started)


def put(session: requests.Session, url: str) -> None:
    while session.put(url, json={"stageId": WON}, timeout=30).status_code == 429:
        time.sleep(0.5)


if __name__ == "__main__":
    sys.exit(main())
