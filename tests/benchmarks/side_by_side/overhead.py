"""Overhead of the client per call over a bare `requests.Session`, with a local server without a limit.

python overhead.py URL KEY CALLS      the process that calls
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

EMAIL = "ada@example.com"
BLOCKS = 20
"""Blocks in which the clients take turns, so that other work on the machine affects all of them. The median counts."""

FAST = 1_000.0
"""Rate of the paced client, so high that it never waits for a slot."""

BARE, UNPACED, PACED = "a bare `requests.Session`", "the client, `rate_store=off`", "the client, paced through its file"


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The cost of one call.

    :param cpu_ms: processor time of the calling process
    """

    way: str
    wall_ms: float
    cpu_ms: float


def overhead(calls: int) -> list[Cost]:
    """The cost of a call of each client, in its own process."""
    from crm_provider.sandbox import Sandbox

    with Sandbox(seed="demo", rate=None, journal_size=10) as crm:
        command = [sys.executable, __file__, crm.url, str(crm.api_key), str(calls)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return [Cost(**one) for one in json.loads(done.stdout)]


# -- the child -----------------------------------------------------------------------------------------------


def measure(url: str, key: str, calls: int) -> list[Cost]:
    with ExitStack() as opened:
        ways = callers(url, key, opened)
        blocks: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for n in range(BLOCKS + 1):
            for name, call in ways.items():
                cost = block(call, max(calls // BLOCKS, 1))
                if n:  # the first block opens the connections
                    blocks[name].append(cost)
    return [
        Cost(way=name, wall_ms=median(wall for wall, _ in costs), cpu_ms=median(cpu for _, cpu in costs))
        for name, costs in blocks.items()
    ]


def callers(url: str, key: str, opened: ExitStack) -> dict[str, Callable[[], object]]:
    import requests

    from crm_provider.client.client import CrmClient
    from crm_provider.client.settings import Settings

    session = opened.enter_context(requests.Session())
    session.headers["x-api-key"] = key

    def bare() -> object:
        response = session.get(f"{url}/contacts/{EMAIL}", timeout=30)
        response.raise_for_status()
        return response.json()["data"]

    found: dict[str, Callable[[], object]] = {BARE: bare}
    for name, store in ((UNPACED, "off"), (PACED, None)):
        settings = Settings(api_key=key, base_url=url, rate_store=store, requests_per_second=FAST)
        client = opened.enter_context(CrmClient(settings))
        found[name] = lambda client=client: client.get_contact(EMAIL)  # type: ignore[misc]
    return found


def block(call: Callable[[], object], calls: int) -> tuple[float, float]:
    """Milliseconds per call: wall time and processor time."""
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(calls):
        call()
    return (time.perf_counter() - wall) / calls * 1000, (time.process_time() - cpu) / calls * 1000


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    print(json.dumps([vars(one) for one in measure(sys.argv[1], sys.argv[2], int(sys.argv[3]))]))
