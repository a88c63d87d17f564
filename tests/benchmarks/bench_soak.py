"""A soak: an hour of loads, extracts, sensors and watches with random faults, and a check of all results.

    python tests/benchmarks/bench_soak.py [--minutes 60] [--seed N] [--write docs/reliability.md]

The sandbox is a process with three accounts, each with its own limit. One worker lives as long as the soak. It runs
loads, extracts, deferred sensors and watches of all accounts, and its memory, files, sockets and threads are sampled.
Each account also has a worker that is killed (SIGKILL) and restarted repeatedly. Its loads, extracts and watches must
continue. Faults are random, see ``soak/weather.py``. The seed decides the work and the faults; when they coincide
depends on the machine.

The exit code is 1 if anything was found wrong. With ``--write`` the report replaces the text between
``<!-- measured: soak -->`` and ``<!-- measured: end -->``.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import re
import sys
import tempfile
import threading
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from soak import leaks
from soak.crms import Account, Crms
from soak.extracts import ExtractStream
from soak.findings import Findings
from soak.loads import LoadStream
from soak.processes import Remote
from soak.waits import Inbox, Sensors, Watch
from soak.weather import KINDS, Weather
from soak.worker import Worker

from crm_provider.testing import fresh_airflow_home

ACCOUNTS = (Account(5, 2), Account(10, 3), Account(20, 5))
"""The documented limit, and two higher ones for more events."""

TIMEOUT = 5.0
"""The timeout of the connections in seconds."""

SHORT = 10.0
"""Minutes. A shorter soak is a test that may run beside others: it has fewer faults that stop a watch for five
minutes, and does not judge memory, calls per window and refusals, which depend on the machine."""

STALL = 2.0
"""Seconds that the machine may pause. Delayed calls then arrive together."""

KNOWN_FILES = ("crm-provider-", "pymp-")
"""Names that may remain in the temporary folder: the rate budgets, and sockets of ``multiprocessing``."""

REFUSED = 0.02
"""Limit of the share of refused calls. Kills and pauses of the machine cause some."""

MARKS = re.compile(r"(<!-- measured: soak -->\n).*?(<!-- measured: end -->)", re.DOTALL)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60.0, help="duration (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="seed of the work and the faults (default: a new one)")
    parser.add_argument("--write", type=Path, help="a document with the marks")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="folder for the workers' logs and files")
    options = parser.parse_args()
    seed = random.randrange(10_000) if options.seed is None else options.seed
    with tempfile.TemporaryDirectory(prefix="crm-soak-") as made:
        folder = options.keep or Path(made)
        folder.mkdir(parents=True, exist_ok=True)
        soak = Soak(options.minutes, seed, folder)
        text = soak.run()
    print(text)
    if options.write:
        found = options.write.read_text(encoding="utf-8")
        options.write.write_text(MARKS.sub(lambda m: f"{m[1]}\n{text}\n\n{m[2]}", found), encoding="utf-8")
    for wrong in soak.findings.wrong:
        print("WRONG", wrong, file=sys.stderr)
    return 1 if soak.findings.wrong else 0


class Killer(threading.Thread):
    """Kills a worker at random moments."""

    def __init__(self, worker: Remote, seed: str, between: tuple[float, float]) -> None:
        super().__init__(daemon=True, name="killer")
        self._worker, self._random, self._between = worker, random.Random(seed), between
        self.ended = threading.Event()

    def run(self) -> None:
        while not self.ended.wait(self._random.uniform(*self._between)):
            self._worker.kill()


class Soak:
    """One soak, from start to report."""

    def __init__(self, minutes: float, seed: int, folder: Path) -> None:
        self.minutes, self.seed, self.folder = minutes, seed, folder
        self.findings = Findings()
        self.is_short = minutes < SHORT
        self.accounts = (
            ACCOUNTS[1:] if self.is_short else ACCOUNTS
        )  # the loads of this account would take longer than the soak
        _environment(folder)
        key = f"soak-key-{seed}-{os.getpid()}"
        self.crms = Remote(Crms, list(self.accounts), key)
        extras = [{"requests_per_second": a.rate, "burst": a.burst, "timeout": TIMEOUT} for a in self.accounts]
        for number, connection in enumerate(self.crms("connections", extras)):
            os.environ[f"AIRFLOW_CONN_SOAK_{number}"] = connection
        self.steady = Remote(Worker, str(folder), "steady")
        self.killed = [Remote(Worker, str(folder), f"killed-{n}") for n in range(len(self.accounts))]
        self.sampler = leaks.Sampler(self.steady)
        self._traffics: list[dict[str, Any]] = []

    def run(self) -> str:
        """Work until the time is over, wait until all work has ended, check, and report."""
        started, cpu = time.monotonic(), os.times()
        workers = [self.steady, *self.killed]
        inboxes = [Inbox(worker) for worker in workers]
        between = (10.0, 25.0) if self.is_short else (90.0, 240.0)
        killers = [Killer(worker, f"{self.seed} {n}", between) for n, worker in enumerate(self.killed)]
        calm = (2.0, 6.0) if self.is_short else (5.0, 30.0)
        weathers = [
            Weather(self.crms, n, self.seed, calm=calm, spare_waiting=self.is_short) for n in range(len(self.accounts))
        ]
        streams = self._streams(inboxes)
        for thread in (*inboxes, *streams, *weathers, *killers, self.sampler):
            thread.start()
        while time.monotonic() < started + 60 * self.minutes:
            time.sleep(min(30.0, max(started + 60 * self.minutes - time.monotonic(), 0.0)))
            self._say(started)
        for thread in killers:
            thread.ended.set()
            thread.join()
        for weather in weathers:
            weather.clear()
        self.sampler.ended.set()
        for stream in streams:
            stream.ended.set()
        for stream in streams:
            stream.join()
        self._check()
        growths = leaks.growths(self.sampler.samples)
        if not self.is_short:
            leaks.check(growths, self.findings)
        seconds = time.monotonic() - started
        report = self._report(growths, seconds)
        for inbox in inboxes:
            inbox.ended.set()
            inbox.join()
        for remote in (*workers, self.crms):
            remote.stop()
        used = os.times()
        print(f"processor: {used.children_user + used.children_system - cpu.children_user:.0f} s of the processes")
        return report

    def _streams(self, inboxes: list[Inbox]) -> list[Any]:
        found: list[Any] = []
        for n in range(len(self.accounts)):
            deleting = threading.Lock()
            common: dict[str, Any] = {"deleting": deleting}
            for worker, name in ((self.steady, f"steady{n}"), (self.killed[n], f"killed{n}")):
                given = (self.crms, worker, n, name, self.seed, self.folder, self.findings)
                found += [
                    LoadStream(*given, rate=self.accounts[n].rate, keeps_state=worker is self.steady, **common),
                    ExtractStream(*given, **common),
                ]
            found.append(Sensors(self.crms, self.steady, n, self.seed, self.findings, inboxes[0], at_once=6, **common))
            for worker, kind, inbox in (
                (self.steady, "list", inboxes[0]),
                (self.steady, "stage", inboxes[0]),
                (self.killed[n], "killed", inboxes[1 + n]),
            ):
                found.append(
                    Watch(
                        self.crms, worker, n, kind, f"{kind}{n}", self.seed, self.folder, self.findings, inbox,
                        interval=5.0 if self.is_short else 30.0, late=240.0 if self.is_short else 1_200.0, **common,
                    )
                )  # fmt: skip
        return found

    def _say(self, started: float) -> None:
        total = sum(self.crms("traffic", n)["total"] for n in range(len(self.accounts)))
        held = leaks.held_by(self.steady.pid)
        print(
            f"{time.monotonic() - started:5.0f} s: {total:,} calls, {self.findings.counts['rows']:,} rows, "
            f"{sum(worker.kills for worker in self.killed)} kills, {held['megabytes']:.0f} MB, "
            f"{held['files']:.0f} files, "
            f"{held['sockets']:.0f} sockets, {held['threads']:.0f} threads, {len(self.findings.wrong)} wrong",
            flush=True,
        )

    # -- the end -----------------------------------------------------------------------------------------------

    def _check(self) -> None:
        self._traffics = [self.crms("traffic", n) for n in range(len(self.accounts))]
        for n, (account, traffic) in enumerate(zip(self.accounts, self._traffics, strict=True)):
            require = self.findings.require
            if not self.is_short:
                self._check_rate(n, account, traffic)
            require(
                not traffic["second_deals"],
                f"account {n}: {traffic['second_deals']} times a deal was created for a contact that had one",
            )
        waits = self.steady("waits")
        self.findings.require(not [name for name in waits if name.startswith("sensor")], f"triggers are left: {waits}")
        left = [path.name for path in (self.folder / "tmp").iterdir() if not path.name.startswith(KNOWN_FILES)]
        self.findings.require(not left, f"temporary files are left: {left}")

    def _check_rate(self, n: int, account: Account, traffic: dict[str, Any]) -> None:
        for window, most in traffic["most"].items():
            if window >= 10.0:
                allowed = account.allowed(window + STALL)
                self.findings.require(
                    most <= allowed, f"account {n}: {most} calls in {window:g} s, allowed are {allowed:g}"
                )
        share = traffic["refused"] / max(traffic["total"], 1)
        self.findings.require(share <= REFUSED, f"account {n}: {share:.1%} of the calls were refused by the limit")

    def _report(self, growths: list[leaks.Growth], seconds: float) -> str:
        from airflow import __version__ as airflow_version

        from crm_provider import __version__

        wrong = self.findings.wrong
        about = (
            f'`make soak ARGS="--minutes {self.minutes:g} --seed {self.seed}"` on '
            f"{datetime.now(timezone.utc):%Y-%m-%d}: {seconds / 60:.0f} minutes with seed {self.seed} "
            f"({platform.machine()}, Python {platform.python_version()}, Airflow {airflow_version}, provider "
            f"{__version__}). {'Nothing wrong was found.' if not wrong else f'{len(wrong)} things were wrong:'}"
        )
        parts = [about, *(f"- {text}" for text in wrong)]
        parts += [self._traffic_table(), self._fault_table(), self._counts_table()]
        if growths:
            parts.append(_growth_table(growths))
        return "\n\n".join(parts)

    def _traffic_table(self) -> str:
        lines = []
        for name, traffic, account, worker in zip(self._names, self._traffics, self.accounts, self.killed, strict=True):
            fullest = [f"{traffic['most'][window]} ({account.allowed(window):g})" for window in (10.0, 60.0)]
            refused = f"{traffic['refused'] / max(traffic['total'], 1):.2%}"
            lines.append([name, f"{traffic['total']:,}", refused, *fullest, f"{worker.kills}"])
        head = ["Account", "Calls", "Refused by the limit", "Most in 10 s (limit)", "Most in 60 s (limit)", "SIGKILLs"]
        return table(head, lines)

    def _fault_table(self) -> str:
        lines = [[kind, *(f"{traffic['faults'].get(kind, 0):,}" for traffic in self._traffics)] for kind in KINDS]
        return table(["Calls with a fault", *self._names], lines)

    @property
    def _names(self) -> list[str]:
        return [f"{account.rate:g} calls/s, burst {account.burst}" for account in self.accounts]

    def _counts_table(self) -> str:
        counts = [[what, f"{number:,}"] for what, number in sorted(self.findings.counts.items())]
        longest = [[f"most {what}", f"{seconds:.0f}"] for what, seconds in sorted(self.findings.longest.items())]
        return table(["What happened", "Number"], counts + longest)


def _growth_table(growths: list[leaks.Growth]) -> str:
    lines = [
        [leaks.UNITS[g.what], f"{g.first:,.0f}", f"{g.last:,.0f}", f"{g.most:,.0f}", f"{g.slope:+,.1f}",
         f"{leaks.LIMITS[g.what]:,.0f}"]
        for g in growths
    ]  # fmt: skip
    head = [
        "Held by the worker that is not killed",
        "After the warm-up",
        "At the end",
        "Most",
        "Slope per hour",
        "Limit",
    ]
    return table(head, lines)


def table(head: list[str], lines: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *lines))


def _environment(folder: Path) -> None:
    """The environment of the processes: an Airflow home and a temporary folder."""
    fresh_airflow_home()
    (folder / "tmp").mkdir(exist_ok=True)
    os.environ["TMPDIR"] = str(folder / "tmp")


if __name__ == "__main__":
    sys.exit(main())
