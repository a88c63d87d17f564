"""How much of the rate limit is used, at the price of how many refusals: ours next to what one would write by hand.

    python tests/benchmarks/bench_rate_limit.py [--seconds 60] [--only "8 processes"] [--write ...]

Each contestant has a sandbox of its own with the CRM's real limit (a token bucket, 5 calls a second, burst 2), and a
number of workers that always have a next call to make. All that fit on the machine run at the same time.

With ``--write`` the table replaces what is between ``<!-- measured: pacing -->`` and ``<!-- measured: end -->``.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "shared"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from redis_server import RedisServer

from tests.unit.rate_limit_hosts import Machine, changing, fairness_by_time

if TYPE_CHECKING:
    from crm_provider.sandbox import Sandbox

RATE, BURST = 5.0, 2
FAST_RATE, FAST_BURST = 50.0, 20
"""The limit of an account whose CRM allows more."""

WARM_UP = 3.0
"""Seconds before the measured time: the full bucket of the start is no merit."""


LOAD_ROWS = 5_000
"""Rows of a load: enough for a minute at the faster limit."""

AT_ONCE = 12
"""Processes that run at the same time at most; each is idle nearly always."""

MARKS = re.compile(r"(<!-- measured: pacing -->\n).*?(<!-- measured: end -->)", re.DOTALL)

BAR = {"share": 0.98, "refused": 0.005, "fairness": 0.98}
"""What the contestants that ``must`` have to reach."""

BAR_AIRFLOW = {"share": 0.95, "refused": 0.01, "fairness": 0.95}
"""The same for hosts that know of each other through Airflow only."""

AIRFLOW_LATENCY = 0.02
"""Seconds that a request to Airflow takes here."""

CLOCKS_APART = 2.0
"""Seconds between the most different clocks of hosts."""

LIVES = (120.0, 300.0)
"""Mean seconds of the hosts that are replaced when they end."""


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """One line of the table.

    :param kind: how a worker makes its calls, see :data:`KINDS`
    :param threads: workers of each process
    :param latency: seconds that the CRM takes for a response
    :param store: ``rate_store`` of the connection
    :param share: part of the limit that each process is given
    :param must: whether it is held to the bar
    :param settled: seconds until the hosts know each other, before the measurement
    :param life: mean seconds after which each host ends, by itself or killed, and is replaced; 0 if none does
    :param apart: seconds between the most different clocks of hosts
    :param rate: calls per second that the CRM allows
    :param burst: calls that the CRM allows at once
    """

    name: str
    kind: str
    processes: int = 1
    threads: int = 1
    latency: float = 0.05
    store: str | None = None
    share: float = 1.0
    must: bool = False
    start_up: float = 0.0
    life: float = 0.0
    apart: float = CLOCKS_APART
    rate: float = RATE
    burst: int = BURST


def contestants() -> list[Contestant]:
    """All of them; ours at the shortest and the longest latency."""
    rivals = [
        Contestant(name="`requests`, one after the other", kind="plain"),
        Contestant(name="`requests` and `tenacity`", kind="tenacity"),
        Contestant(name="thread pool and `tenacity`", kind="tenacity", threads=16),
        Contestant(name="`requests` and `tenacity`", kind="tenacity", processes=8, threads=2),
    ]
    ours = [
        Contestant(name="ours", kind="ours", processes=count, threads=16 // count, latency=latency, must=True)
        for count in (1, 2, 4, 8)
        for latency in (0.05, 1.0)
    ]
    hosts = [
        Contestant(
            name="ours, 4 hosts with Redis",
            kind="ours",
            processes=4,
            threads=4,
            latency=latency,
            store="redis",
            must=True,
        )
        for latency in (0.05, 1.0)
    ]
    airflow = [
        Contestant(
            name=f"ours, {count} hosts with Airflow",
            kind="bulk",
            processes=count,
            threads=16 // count,
            store="airflow",
            must=True,
            start_up=45.0,
        )
        for count in (1, 2, 4, 8)
    ]
    churn = [
        Contestant(
            name=f"ours, 8 hosts with Airflow that live for {life / 60:g} min and may be killed, clocks {clocks}",
            kind="bulk",
            processes=8,
            threads=2,
            store="airflow",
            start_up=45.0,
            life=life,
            apart=apart,
            must=not apart,
        )
        for life in LIVES
        for clocks, apart in (("right", 0.0), (f"{CLOCKS_APART:g} s apart", CLOCKS_APART))
    ]
    alone = [
        Contestant(name="ours, 4 hosts, no share", kind="ours", processes=4, threads=4, store="process"),
        Contestant(
            name="ours, 4 hosts, a share each", kind="ours", processes=4, threads=4, store="process", share=1 / 4
        ),
    ]
    mixed = [Contestant(name="ours, single calls next to a load", kind="mixed", processes=2, threads=8, must=True)]
    fast = [
        Contestant(
            name=f"{name}, {FAST_RATE:g} calls a second",
            kind=kind,
            processes=count,
            threads=24 // count if kind == "ours" else 1,
            latency=latency,
            must=True,
            rate=FAST_RATE,
            burst=FAST_BURST,
        )
        for name, kind in (("ours", "ours"), ("a load each", "load"))
        for count in (1, 2, 4, 8)
        for latency in (0.05, 0.2)
    ]
    return [*rivals, *ours, *hosts, *airflow, *churn, *alone, *mixed, *fast]


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What came out for a contestant."""

    contestant: Contestant
    share: float
    refused: float
    median: float
    slowest: float
    fairness: float
    urgent: tuple[float, float] | None = None

    @property
    def misses(self) -> list[str]:
        """What is below the bar."""
        if not self.contestant.must:
            return []
        bar = BAR_AIRFLOW if self.contestant.store == "airflow" else BAR
        fair = self.fairness >= bar["fairness"] or self.urgent is not None  # of unlike workers fairness says nothing
        return [
            *([f"{self.share:.1%} of the limit used"] if self.share < bar["share"] else []),
            *([f"{self.refused:.2%} refused"] if self.refused > bar["refused"] else []),
            *([] if fair else [f"fairness {self.fairness:.3f}"]),
        ]


def main() -> int:
    """Measure, print, and say whether ours met the bar."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="measured time of each (default: %(default)s)")
    parser.add_argument("--only", default="", help="only contestants with this in their line")
    parser.add_argument("--write", type=Path, help="a document with the marks")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        work(**json.loads(options.child))
        return 0
    chosen = [c for c in contestants() if options.only in label(c)]
    lines: list[Figures] = []
    with ExitStack() as stack:
        redis_url = None
        if any(c.store == "redis" for c in chosen):
            try:
                redis_url = stack.enter_context(RedisServer()).url
            except FileNotFoundError as missing:
                print(f"{missing}; the lines with Redis are left out", file=sys.stderr)
                chosen = [c for c in chosen if c.store != "redis"]
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for wave in waves(chosen):
            print(f"measuring {options.seconds:g} s:", "; ".join(map(label, wave)), file=sys.stderr, flush=True)
            lines += measure(wave, options.seconds, redis_url, home)
    text = table(lines, options.seconds)
    print(text)
    if options.write:
        write(options.write, text)
    misses = [f"below the bar: {label(line.contestant)}: {', '.join(line.misses)}" for line in lines if line.misses]
    print(*misses, sep="\n", file=sys.stderr)
    return 1 if misses else 0


def waves(chosen: list[Contestant]) -> Iterator[list[Contestant]]:
    """Groups that may run at the same time."""
    wave: list[Contestant] = []
    for contestant in chosen:
        if wave and sum(c.processes for c in wave) + contestant.processes > AT_ONCE:
            yield wave
            wave = []
        wave.append(contestant)
    if wave:
        yield wave


# -- the parent: the CRM, and what it saw ---------------------------------------------------------------------


@dataclass(frozen=True)
class Child:
    """A process with workers."""

    contestant: Contestant
    process: subprocess.Popen[str]

    @property
    def stdin(self) -> IO[str]:
        assert self.process.stdin
        return self.process.stdin

    def reported(self) -> Any:
        """Its next message."""
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"a process of {label(self.contestant)} ended too early")
        return json.loads(line)


def measure(wave: list[Contestant], seconds: float, redis_url: str | None, home: Path) -> list[Figures]:
    """Run contestants side by side, each against a sandbox of its own."""
    from crm_provider.sandbox import Sandbox

    with ExitStack() as stack:
        crms = [stack.enter_context(Sandbox(rate=c.rate, burst=c.burst, journal_size=1_000_000)) for c in wave]
        children = []
        for contestant, crm in zip(wave, crms, strict=True):
            crm.add_fault(effect="latency", latency=contestant.latency)
            store = redis_url if contestant.store == "redis" else contestant.store
            for number in range(len(lives(contestant, seconds)) if contestant.life else contestant.processes):
                child = start(contestant, number, crm, store, home, seconds)
                stack.callback(child.process.kill)
                children.append(child)
        for child in children:
            child.reported()
        for child in children:
            print("go", file=child.stdin, flush=True)
        went = time.monotonic()
        time.sleep(max(WARM_UP, *(contestant.start_up for contestant in wave)))
        begin = time.monotonic()
        time.sleep(seconds)
        end = time.monotonic()
        for child in children:
            with suppress(BrokenPipeError):  # it was killed, or has ended
                print("stop", file=child.stdin, flush=True)
        reported = [child.reported() for child in children]
        figures = []
        for contestant, crm in zip(wave, crms, strict=True):
            seen = [entry.status for entry in crm.journal() if begin <= entry.at < end]
            own = [report for child, report in zip(children, reported, strict=True) if child.contestant is contestant]
            found = judge(contestant, seen, own, begin, end)
            if contestant.life:
                calls = calls_of(own, begin, end)
                fairness = fairness_by_time(lives(contestant, seconds), calls, begin - went, end - went)
                found = replace(found, fairness=fairness)
            figures.append(found)
    return figures


def lives(contestant: Contestant, seconds: float) -> list[Machine]:
    """The hosts of a contestant that come and go: the same ones each time."""
    return changing(contestant.life, contestant.start_up + seconds, seed=0, skew=contestant.apart / 2)


def calls_of(reports: list[dict[str, Any]], begin: float, end: float) -> list[int]:
    """The calls of each process."""
    return [sum(begin <= done < end for worker in report["workers"] for done, *_ in worker) for report in reports]


def start(contestant: Contestant, number: int, crm: Sandbox, store: str | None, home: Path, seconds: float) -> Child:
    """Start a process of a contestant; it waits for the word."""
    given = {
        **asdict(contestant),
        "number": number,
        "url": crm.url,
        "key": crm.api_key,
        "store": store,
        "home": str(home),
        "machine": asdict(lives(contestant, seconds)[number]) if contestant.life else {},
    }
    given["machine"].pop("lane", None)
    command = [sys.executable, __file__, "--child", json.dumps(given)]
    env = {**os.environ, "TMPDIR": str(home), "NO_PROXY": "127.0.0.1"}
    if contestant.store == "airflow":  # a host of its own
        own = home / f"host-{contestant.life}-{contestant.apart:g}-{contestant.processes}-{number}"
        own.mkdir()
        env["TMPDIR"] = str(own)
    process = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    return Child(contestant, process)


def judge(
    contestant: Contestant, seen: list[int | None], reports: list[dict[str, Any]], begin: float, end: float
) -> Figures:
    """The figures of a contestant: of calls by what the CRM saw, of waiting by what its workers told."""
    passed = sum(status in (200, 201) for status in seen)
    by_worker = [
        [(wait, lane) for done, wait, lane in worker if begin <= done < end]
        for report in reports
        for worker in report["workers"]
    ]
    waits = [wait for worker in by_worker for wait, _ in worker]
    urgent = [wait for worker in by_worker for wait, lane in worker if lane == "single"]
    return Figures(
        contestant=contestant,
        share=passed / (contestant.rate * (end - begin)),
        refused=1 - passed / len(seen) if seen else 0.0,
        median=statistics.median(waits or [math.inf]),
        slowest=percentile(waits, 0.99),
        fairness=jain([len(worker) for worker in by_worker]),
        urgent=(statistics.median(urgent), percentile(urgent, 0.99)) if contestant.kind == "mixed" else None,
    )


def percentile(values: list[float], part: float) -> float:
    return math.inf if not values else sorted(values)[min(int(len(values) * part), len(values) - 1)]


def jain(counts: list[int]) -> float:
    """1 if all got the same, 1/n if one got everything."""
    squares = sum(count * count for count in counts)
    return sum(counts) ** 2 / (len(counts) * squares) if squares else 0.0


# -- a child: workers that always have a next call ------------------------------------------------------------


def work(*, kind: str, threads: int, latency: float, **given: Any) -> None:
    """Make calls from "go" to "stop", and tell when each was done and how long it took beyond the CRM's latency."""
    stopped = threading.Event()
    reports: list[list[tuple[float, float, str]]] = [[] for _ in range(threads)]
    calls = [] if kind == "load" else KINDS[kind](given, threads)

    def repeat(number: int) -> None:
        lane, call, rest = calls[number]
        while not stopped.is_set():
            began = time.monotonic()
            if call():
                done = time.monotonic()
                reports[number].append((done, max(done - began - latency, 0.0), lane))
            if rest:
                stopped.wait(random.uniform(0.5, 1.5) * rest)

    def report() -> None:
        stopped.set()
        print(json.dumps({"workers": reports}), flush=True)

    life = given["machine"]
    workers = [threading.Thread(target=repeat, args=(number,), daemon=True) for number in range(threads)]
    if kind == "load":
        workers = [threading.Thread(target=load_of(given, reports[0]), daemon=True)]
    print(json.dumps("ready"), flush=True)
    sys.stdin.readline()
    for worker in workers:
        threading.Timer(life.get("begins", 0.0), worker.start).start()
    if life:
        threading.Timer(life["dies"], end_of_host, [given, report]).start()
    sys.stdin.readline()
    report()
    os._exit(0)  # it does not wait for callers that still wait


def end_of_host(given: dict[str, Any], report: Callable[[], None]) -> None:
    """A host that another one replaces ends by itself, or is killed."""
    from crm_provider.rate_limit.limiter import end_calls

    if given["machine"]["finishes"]:
        end_calls(given["limiter"])
    report()
    os.kill(os.getpid(), signal.SIGKILL)


Call = tuple[str, Callable[[], bool], float]
"""The lane, what makes one call and says whether it succeeded, and the seconds until the next."""


def plain(given: dict[str, Any], threads: int) -> list[Call]:
    """Calls without any care; a refusal is a failure."""
    import requests

    def worker() -> Call:
        session = requests.Session()
        session.headers["x-api-key"] = given["key"]
        return "", lambda: session.get(f"{given['url']}/segments?page=0", timeout=30).ok, 0.0

    return [worker() for _ in range(threads)]


def backing_off(given: dict[str, Any], threads: int) -> list[Call]:
    """The same with exponential back-off and jitter on each refusal, as the tenacity manual has it."""
    import tenacity

    def worker(call: Callable[[], bool]) -> Call:
        wait = tenacity.wait_random_exponential(multiplier=0.5, max=10)
        retrying = tenacity.Retrying(retry=tenacity.retry_if_result(lambda passed: not passed), wait=wait)
        return "", lambda: retrying(call), 0.0

    return [worker(call) for _, call, _ in plain(given, threads)]


def ours(given: dict[str, Any], threads: int, lane: str = "single") -> list[Call]:
    """Threads that share a client."""
    from crm_provider.client.client import CrmClient
    from crm_provider.client.settings import Settings
    from crm_provider.client.transport import Transport
    from crm_provider.errors import CrmThrottledError
    from crm_provider.rate_limit.limiter import limiter_for
    from crm_provider.rate_limit.schedule import Lane

    settings = Settings(
        api_key=given["key"],
        base_url=given["url"],
        rate_store=given["store"],
        requests_per_second=given["rate"] * given["share"],
        burst=given["burst"],
    )
    given["limiter"] = limiter_for(settings, lane=Lane(lane))
    client = CrmClient(settings, transport=Transport(settings, limiter=given["limiter"]))

    def call() -> bool:
        try:
            client.request("GET", "/segments", params={"page": 0})
        except CrmThrottledError:
            return False
        return True

    return [(lane, call, 0.0)] * threads


def mixed(given: dict[str, Any], threads: int) -> list[Call]:
    """The first process is a load; the second has one occasional caller."""
    if given["number"] == 0:
        return ours(given, threads, "bulk")
    [(lane, call, _)] = ours(given, 1)
    return [(lane, call, 1.0)] + [("", lambda: False, 1.0)] * (threads - 1)


def load_of(given: dict[str, Any], report: list[tuple[float, float, str]]) -> Callable[[], object]:
    """A load of new contacts, with more rows than it can send."""
    from crm_provider.client.client import CrmClient
    from crm_provider.client.observers import RequestEvent
    from crm_provider.client.settings import Settings
    from crm_provider.client.transport import Transport
    from crm_provider.errors.on_error import Work
    from crm_provider.errors.policy import ErrorPolicy
    from crm_provider.load.job import LoadJob
    from crm_provider.load.mapping.mapper import Mapper
    from crm_provider.load.options import ContactOptions
    from crm_provider.load.sources.source import open_source
    from crm_provider.load.workers import RequestStats
    from crm_provider.rate_limit.limiter import limiter_for
    from crm_provider.rate_limit.schedule import Lane

    def note(seen: RequestEvent) -> None:
        if seen.error_type is None:
            report.append((time.monotonic(), seen.waited, "bulk"))

    settings = Settings(
        api_key=given["key"],
        base_url=given["url"],
        rate_store=given["store"],
        requests_per_second=given["rate"],
        burst=given["burst"],
    )
    stats = RequestStats()
    transport = Transport(settings, limiter=limiter_for(settings, lane=Lane.BULK), observer=stats)
    transport.observe(note)
    rows = [{"email": f"p{given['number']}-{n}@x.org"} for n in range(LOAD_ROWS)]
    return LoadJob(
        source=open_source(rows),
        mapper=Mapper(None),
        client=CrmClient(settings, transport=transport),
        stats=stats,
        options=ContactOptions(plan="learned"),
        policy=ErrorPolicy(work=Work.LOAD),
        rate=given["rate"],
    ).run


class FileText:
    """A text that all hosts can read and write, with the latency of Airflow's API. Writes may overwrite each other."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> str | None:
        time.sleep(AIRFLOW_LATENCY)
        return self._path.read_text() if self._path.exists() else None

    def write(self, text: str) -> None:
        time.sleep(AIRFLOW_LATENCY)
        new = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        new.write_text(text)
        new.replace(self._path)


def bulk(given: dict[str, Any], threads: int) -> list[Call]:
    """The load of a host whose clock is wrong."""
    from crm_provider.rate_limit import limiter
    from crm_provider.rate_limit.leases import LeaseStore

    skew = given["machine"].get("skew", given["apart"] * (given["number"] % 3 - 1) / 2)
    limiter.share_through(lambda name: FileText(Path(given["home"], name)))  # its name is made of the CRM's address

    class WrongClock(LeaseStore):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, wall=lambda: time.time() + skew)

    limiter.LeaseStore = WrongClock  # type: ignore[assignment,misc]
    return ours(given, threads, "bulk")


KINDS = {"bulk": bulk, "plain": plain, "tenacity": backing_off, "ours": ours, "mixed": mixed}


# -- the table ------------------------------------------------------------------------------------------------


def label(contestant: Contestant) -> str:
    """A contestant in one line."""
    c = contestant
    return f"{c.name}, {c.processes} processes x {c.threads}, {c.latency * 1000:g} ms"


def table(lines: list[Figures], seconds: float) -> str:
    """The figures in Markdown."""
    text = [
        "| Calls by | Processes x threads | Latency | Limit used | Refused | Wait, median | Wait, p99 | Fairness |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    notes = []
    for f in lines:
        c = f.contestant
        workers = f"{c.processes} x {c.threads}"
        fairness = "-" if c.processes * c.threads == 1 or f.urgent else f"{f.fairness:.3f}"
        text.append(
            f"| {c.name} | {workers} | {c.latency * 1000:g} ms | {f.share:.1%} | {f.refused:.1%} | {f.median:.2f} s | "
            f"{f.slowest:.2f} s | {fairness} |"
        )
        if f.urgent:
            notes.append(
                f"Single calls next to a load with 8 threads waited {f.urgent[0]:.2f} s (median) and "
                f"{f.urgent[1]:.2f} s (p99); the load itself {f.median:.2f} s and {f.slowest:.2f} s."
            )
    text += ["", *notes, *([""] if notes else [])]
    text.append(
        f"Limit {RATE:g} calls a second, burst {BURST} (of {FAST_RATE:g} calls: {FAST_BURST}); {seconds:g} s "
        "measured after a warm-up; every worker always "
        "has a next call. Wait: until the call succeeded, without the latency. Fairness: Jain's index over the "
        f"workers. Python {platform.python_version()}, {os.cpu_count()} cores."
    )
    return "\n".join(text)


def write(path: Path, text: str) -> None:
    """Put the table into a document."""
    document = path.read_text(encoding="utf-8")
    if not MARKS.search(document):
        sys.exit(f"{path} has no markers <!-- measured: pacing --> and <!-- measured: end -->")
    path.write_text(MARKS.sub(lambda marks: f"{marks[1]}{text}\n{marks[2]}", document), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
