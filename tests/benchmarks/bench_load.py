"""Cost of a load: the used share of the rate limit, calls per row compared with a loop, processor time and memory.

    python tests/benchmarks/bench_load.py [--seconds 40] [--write docs/load.md]

Four tables. All lines of a table are measured in one run, each against its own sandbox:

- *latency*: the used share of a limit of 5 calls per second, with calls that take 50 ms to 2 s;
- *calls*: 2,000 rows, of which 80 % exist and 5 % differ, and a day later with 2 % changed rows; compared with a loop
  that creates and updates on a conflict. There is no limit, because only the calls count;
- *engine*: rows per second and processor time per row without a limit, compared with `requests` in eight threads. The
  sandbox is another process. The command fails if a load takes more than 1.3 times the processor time;
- *memory*: a million unchanged rows, and their first check.

With ``--write`` the tables replace the text between ``<!-- measured: load -->`` and ``<!-- measured: end -->``.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import csv
import json
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests

from crm_provider import errors as e
from crm_provider.client.client import CrmClient
from crm_provider.client.settings import Settings
from crm_provider.client.transport import Transport
from crm_provider.errors.on_error import Work
from crm_provider.errors.policy import ErrorPolicy
from crm_provider.load.job import LoadJob
from crm_provider.load.mapping.mapper import Mapper
from crm_provider.load.options import ContactOptions
from crm_provider.load.report import Summary
from crm_provider.load.rows import Outcome, Row
from crm_provider.load.sources.source import open_source
from crm_provider.load.state.fingerprints import Fingerprints
from crm_provider.load.workers import CancelToken, RequestStats
from crm_provider.rate_limit.limiter import ProcessRateLimiter, UnlimitedRate
from crm_provider.sandbox import Sandbox

RATE, BURST = 5.0, 2
LATENCIES = (0.05, 0.2, 0.6, 1.0, 2.0)
ROWS, EXISTING, CHANGED, LATER = 2_000, 0.8, 0.05, 0.02
MILLION = 1_000_000
ENGINES = {"engine": "a load", "requests": "`requests` in eight threads"}
ENGINE_ROWS, ENGINE_RUNS, MOST_RATIO = 3_000, 5, 1.3
WARM_UP = 5.0
"""Seconds at the start that do not count, because the load does not know the latency yet and the bucket is full."""

MARKS = re.compile(r"(<!-- measured: load -->\n).*?(<!-- measured: end -->)", re.DOTALL)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--seconds", type=float, default=40.0, help="measured time of each latency (default: %(default)s)"
    )
    parser.add_argument("--write", type=Path, help="a document with the marks")
    parser.add_argument("--child", nargs=2, metavar=("WAY", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        way, place = options.child
        print(json.dumps(engine_child(way, place) if way in ENGINES else memory_child(way, Path(place))))
        return 0
    ratio, speeds = engine()
    text = "\n\n".join([*latency(options.seconds), *calls(), *speeds, *memory()])
    print(text)
    if options.write:
        found = options.write.read_text(encoding="utf-8")
        options.write.write_text(MARKS.sub(lambda m: f"{m[1]}\n{text}\n\n{m[2]}", found), encoding="utf-8")
    if ratio > MOST_RATIO:
        print(f"over {MOST_RATIO}: the engine takes {ratio:.2f} times the processor time of requests", file=sys.stderr)
    return int(ratio > MOST_RATIO)


def table(head: list[str], lines: list[list[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


# -- share of the limit --------------------------------------------------------------------------------------


def latency(seconds: float) -> list[str]:
    """All latencies in parallel, each with a sandbox, because nearly all of the time is waiting."""
    with concurrent.futures.ThreadPoolExecutor(len(LATENCIES)) as pool:
        found = list(pool.map(lambda one: budget_used(one, seconds), LATENCIES))
    lines = [
        [f"{1000 * one:,.0f} ms", f"{used:.1%}", f"{refused:.1%}"]
        for one, (used, refused) in zip(LATENCIES, found, strict=True)
    ]
    about = (
        f"A load of new contacts at {RATE:g} calls per second, {seconds:g} s for each latency, the first {WARM_UP:g} s "
        f"left out ({time.strftime('%Y-%m-%d')}, {platform.machine()}, Python {platform.python_version()}):"
    )
    return [about, table(["A call takes", "Share of the limit used", "Calls refused with 429"], lines)]


def budget_used(one: float, seconds: float) -> tuple[float, float]:
    with Sandbox(seed="empty", rate=RATE, burst=BURST) as sandbox:
        sandbox.add_fault(effect="latency", latency=one)
        rows = [{"email": f"p{n}@x.org", "name": f"P{n}"} for n in range(int(RATE * (seconds + WARM_UP) * 2))]
        cancel_token = CancelToken()
        with load_client(sandbox.url, ProcessRateLimiter(RATE, BURST), cancel_token) as (client, stats):
            load = LoadJob(source=open_source(rows), mapper=Mapper(None), client=client, stats=stats,
                        options=ContactOptions(plan="learned"), policy=ErrorPolicy(work=Work.LOAD), rate=RATE,
                        cancel_token=cancel_token)  # fmt: skip
            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                running = pool.submit(load.run)
                time.sleep(WARM_UP)
                before = sandbox.counters()
                time.sleep(seconds)
                after = sandbox.counters()
                cancel_token.set()
                concurrent.futures.wait([running])
        made = after.total - before.total
        refused = after.throttled - before.throttled
        return (made - refused) / (RATE * seconds), refused / made


@contextmanager
def load_client(url: str, limiter: Any, cancel_token: CancelToken) -> Iterator[tuple[CrmClient, RequestStats]]:
    settings, stats = Settings(api_key="sandbox-key", base_url=url), RequestStats()
    transport = Transport(settings, limiter=limiter, sleep=cancel_token.sleep, observer=stats)
    with CrmClient(settings, transport=transport) as client:
        yield client, stats


# -- calls ---------------------------------------------------------------------------------------------------


def calls() -> list[str]:
    minimum = round(ROWS * (1 - EXISTING) + ROWS * EXISTING * CHANGED)
    first = {"a loop: create, and update on a conflict": plain_loop(people())}
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder, "state")
        for plan in ("learned", "compare", "auto"):
            first[f'`plan="{plan}"`'] = calls_of(people(), plan, None)
        day = calls_of(people(), "auto", state, also=people(later=True))
    again = {"the loop, a day later": plain_loop(people(later=True), existing=people()),
             "`state_path`, a day later": day}  # fmt: skip
    lines = [[way, f"{n:,}", f"{n / ROWS:.2f}", f"{hours(n):.1f} h"] for way, n in {**first, **again}.items()]
    about = (
        f"{ROWS:,} rows; {EXISTING:.0%} exist, {CHANGED:.0%} of those differ (so {minimum:,} writes are needed); a day "
        f"later {LATER:.0%} of the rows have changed. Hours for 100,000 such rows at {RATE:g} calls per second:"
    )
    return [about, table(["Way", "Calls", "Calls per row", "100,000 rows"], lines)]


def hours(n: int) -> float:
    return n / ROWS * 100_000 / RATE / 3600


def people(*, later: bool = False) -> list[dict[str, str]]:
    """The rows. The existing and the different ones are spread evenly."""
    new = {n for n in range(ROWS) if later and n % round(1 / LATER) == 0}
    return [{"email": f"p{n}@x.org", "name": f"Name {n}{' new' * (n in new)}"} for n in range(ROWS)]


def crm(existing: list[dict[str, str]] | None = None) -> Sandbox:
    sandbox = Sandbox(seed="empty", rate=None, journal_size=10)
    given = people() if existing is None else existing
    for n, row in enumerate(given):
        if existing is None and n % 5 == 0:  # not in the CRM
            continue
        old = existing is None and n % 20 == 1  # slightly more than 5 % of the existing ones
        sandbox.store.create_contact(row["email"], attributes={"name": "Old" if old else row["name"]})
    return sandbox


def calls_of(
    rows: list[dict[str, str]], plan: Any, state: Path | None, also: list[dict[str, str]] | None = None
) -> int:
    """Calls of a load, or with ``also`` of the next day's load of these rows."""
    with crm() as sandbox:
        spent = sandbox.counters().total
        for given in [rows] if also is None else [rows, also]:
            spent = sandbox.counters().total
            run_load(sandbox, given, plan, state)
        return sandbox.counters().total - spent


def run_load(sandbox: Sandbox, rows: list[dict[str, str]], plan: Any, state: Path | None) -> Summary:
    cancel_token = CancelToken()
    with load_client(sandbox.url, UnlimitedRate(), cancel_token) as (client, stats):
        return LoadJob(source=open_source(rows), mapper=Mapper(None), client=client, stats=stats,
                    options=ContactOptions(plan=plan), policy=ErrorPolicy(work=Work.LOAD), cancel_token=cancel_token,
                    fingerprints=None if state is None else Fingerprints(state, b"secret")).run()  # fmt: skip


def plain_loop(rows: list[dict[str, str]], existing: list[dict[str, str]] | None = None) -> int:
    with crm(existing) as sandbox, load_client(sandbox.url, UnlimitedRate(), CancelToken()) as (client, _):
        for row in rows:
            attributes = {"name": row["name"]}
            try:
                client.create_contact(row["email"], attributes=attributes)
            except e.CrmContactAlreadyExistsError:
                client.update_contact(row["email"], attributes=attributes)
        return sandbox.counters().total


# -- the engine ----------------------------------------------------------------------------------------------


def engine() -> tuple[float, list[str]]:
    """Both in turn, each in its own process, against a sandbox in a third process.

    :return: the processor time per row relative to requests, and the table
    """
    found: dict[str, list[dict[str, float]]] = {way: [] for way in ENGINES}
    for _ in range(ENGINE_RUNS):
        for way in ENGINES:
            with sandbox_process() as url:
                found[way].append(child_of(way, url))
    medians = {
        way: {name: statistics.median(run[name] for run in runs) for name in ("rate", "cpu")}
        for way, runs in found.items()
    }
    ratios = [one["cpu"] / other["cpu"] for one, other in zip(found["engine"], found["requests"], strict=True)]
    ratio = statistics.median(ratios)
    lines = [[ENGINES[way], f"{m['rate']:,.0f}", f"{1000 * m['cpu']:.2f} ms"] for way, m in medians.items()]
    about = (
        f"{ENGINE_ROWS:,} new contacts without a limit, the sandbox in a process of its own, medians of {ENGINE_RUNS} "
        f"runs. A load takes {ratio:.2f} times the processor time of `requests`:"
    )
    return ratio, [about, table(["Sent by", "Rows per second", "Processor time of a row"], lines)]


@contextmanager
def sandbox_process() -> Iterator[str]:
    """The URL of a sandbox without contacts and without a limit."""
    command = [sys.executable, "-m", "crm_provider.sandbox", "--port", "0", "--seed", "empty", "--no-limit"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout
        try:
            yield next(found[0] for line in process.stdout if (found := re.search(r"http://[\w.:]+/v2", line)))
        finally:
            process.terminate()


def engine_child(way: str, url: str) -> dict[str, float]:
    """Send all rows, and report the processor time per row and the rows per second."""
    rows = [{"email": f"p{n}@x.org", "name": f"Name {n}"} for n in range(ENGINE_ROWS)]
    send = {"engine": send_by_load, "requests": send_by_requests}[way]
    wall, cpu = time.monotonic(), time.process_time()
    send(url, rows)
    return {"rate": len(rows) / (time.monotonic() - wall), "cpu": (time.process_time() - cpu) / len(rows)}


def send_by_load(url: str, rows: list[dict[str, str]]) -> None:
    cancel_token = CancelToken()
    with load_client(url, UnlimitedRate(), cancel_token) as (client, stats):
        summary = LoadJob(source=open_source(rows), mapper=Mapper(None), client=client, stats=stats,
                          options=ContactOptions(plan="learned"), policy=ErrorPolicy(work=Work.LOAD),
                          cancel_token=cancel_token).run()  # fmt: skip
    assert summary.counts == {Outcome.CREATED: len(rows)}, summary.counts


def send_by_requests(url: str, rows: list[dict[str, str]]) -> None:
    sessions = threading.local()

    def send(row: dict[str, str]) -> None:
        if not hasattr(sessions, "own"):
            sessions.own = requests.Session()
            sessions.own.trust_env = False
            sessions.own.headers["x-api-key"] = "sandbox-key"
        body = {"email": row["email"], "attributes": {"name": row["name"]}}
        response = sessions.own.post(f"{url}/contacts", json=body, timeout=30)
        response.raise_for_status()
        response.json()

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(send, rows))


# -- memory --------------------------------------------------------------------------------------------------


def memory() -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        with Path(folder, "people.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["email", "name", "phone", "city", "plan"])
            writer.writerows(
                [f"p{n}@x.org", f"Name {n}", f"+5531{n:09}", "Belo Horizonte", "trial"] for n in range(MILLION)
            )
        found = [child_of(way, folder) for way in ("base", "dry_run", "repeat")]
    base = found[0]["megabytes"]
    names = {"dry_run": "checked (dry run)", "repeat": "loaded before (state file), none changed"}
    lines = [
        [names[f["way"]], f"{f['seconds']:.0f} s", f"{f['megabytes'] - base:.0f} MB"]
        for f in found
        if f["way"] in names
    ]
    return [
        f"{MILLION:,} rows of five columns from a CSV file:",
        table(["Rows are", "Time", "Memory over the base"], lines),
    ]


def child_of(way: str, place: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--child", way, place]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def memory_child(way: str, folder: Path) -> dict[str, Any]:
    started = time.monotonic()
    mapper, source = Mapper(None), open_source(folder / "people.csv")
    state = folder / "state"
    if way == "repeat":
        remember_all(mapper, source.rows(), state)
        started = time.monotonic()
    if way != "base":
        settings = Settings(api_key="sandbox-key", base_url="http://127.0.0.1:9")
        LoadJob(source=source, mapper=mapper, client=CrmClient(settings), stats=RequestStats(),
             options=ContactOptions(plan="learned", dry_run=way == "dry_run"), policy=ErrorPolicy(work=Work.LOAD),
             fingerprints=Fingerprints(state, b"secret") if way == "repeat" else None).run()  # fmt: skip
    return {"way": way, "seconds": time.monotonic() - started, "megabytes": peak()}


def peak() -> float:
    """Peak memory of this process in megabytes. ``getrusage`` would include the parent process."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) / 1024


def remember_all(mapper: Mapper, rows: Iterator[Row], state: Path) -> None:
    prints = Fingerprints(state, b"secret")
    for row in rows:
        prints.remember(mapper(row))
    prints.finish()


if __name__ == "__main__":
    sys.exit(main())
