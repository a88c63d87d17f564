"""Memory and time of big loads: the check, sending, and the state file, with two numbers of rows.

    python tests/benchmarks/bench_big_loads.py [--rows 1000000] [--sent 200000] [--write docs/performance.md]

Each line is measured in its own process, and its memory is compared with that of a process that loads nothing:

- *checked*: a dry run of a CSV file of five columns;
- *checked with types*: a dry run of a CSV file of eight columns, of which one is a number, one a date, one a boolean;
- *sent*: a load of new contacts. The CRM is a function in the same process, without a network or a limit;
- *in a state file*: a state file with this many contacts is opened, extended by 1 % and replaced (compacted);
- *remembered*: the rows are added to a state file one by one, in the order of the source. It is replaced at the end;
- *loaded before*: a load of unchanged rows, which sends nothing and replaces the state file.

Each line is also measured with a tenth of the rows: memory is flat if both lines have the same. The command fails if
a line takes more than 60 MB over the base. With ``--write`` the table replaces the text between
``<!-- big-loads:begin -->`` and ``<!-- big-loads:end -->``.
"""

from __future__ import annotations

import argparse
import csv
import json
import platform
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from crm_provider.client.client import CrmClient
from crm_provider.client.http_session import HttpSession
from crm_provider.client.request import Call
from crm_provider.client.responses import CrmResponse
from crm_provider.client.settings import Settings
from crm_provider.client.transport import Transport
from crm_provider.errors.on_error import Work
from crm_provider.errors.policy import ErrorPolicy
from crm_provider.load.job import LoadJob
from crm_provider.load.mapping.mapper import Mapper
from crm_provider.load.options import ContactOptions
from crm_provider.load.report import Summary
from crm_provider.load.rows import Contact, Outcome
from crm_provider.load.sources.source import open_source
from crm_provider.load.state.checkpoint import FileCheckpoints
from crm_provider.load.state.fingerprints import Fingerprints
from crm_provider.load.workers import RequestStats
from crm_provider.rate_limit.limiter import UnlimitedRate

MOST = 60.0
"""Limit of a line in megabytes over the base."""

BIG_RATE = 1_000_000.0
"""Calls per second of the CRM in this process, so high that the load uses all its threads."""

MARKS = re.compile(r"(<!-- big-loads:begin -->\n).*?(<!-- big-loads:end -->)", re.DOTALL)

NAMES = {
    "check": "checked (dry run)",
    "types": "checked with types (dry run)",
    "send": "sent",
    "state": "in a state file that is opened, extended by 1 % and replaced",
    "remember": "remembered in a new state file",
    "repeat": "loaded before (state file), none changed",
}


@dataclass(frozen=True)
class Measured:
    """The measurements of a process.

    :param rows: loaded rows
    :param megabytes: peak memory over that of a process that loads nothing
    :param cpu: seconds of processor time
    :param wall: seconds
    :param state_bytes: size of the state file at the end, 0 without one
    """

    way: str
    rows: int
    megabytes: float
    cpu: float
    wall: float
    state_bytes: int


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of a load (default: %(default)s)")
    parser.add_argument("--sent", type=int, default=200_000, help="rows that are sent (default: %(default)s)")
    parser.add_argument("--only", default="", choices=["", *NAMES], help="only this kind of line")
    parser.add_argument("--write", type=Path, help="a document with the marks")
    parser.add_argument("--child", nargs=2, metavar=("WAY", "FILE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(options.child[0], Path(options.child[1]))))
        return 0
    lines = list(lines_of(options.rows, options.sent, options.only))
    text = table(lines)
    print(text)
    if options.write:
        found = options.write.read_text(encoding="utf-8")
        options.write.write_text(MARKS.sub(lambda m: f"{m[1]}\n{text}\n\n{m[2]}", found), encoding="utf-8")
    too_much = [line for line in lines if line.megabytes > MOST]
    for line in too_much:
        print(f"over {MOST:g} MB: {NAMES[line.way]}, {line.rows:,} rows: {line.megabytes:.0f} MB", file=sys.stderr)
    return 1 if too_much else 0


# -- the measured processes -----------------------------------------------------------------------------------


def lines_of(rows: int, sent: int, only: str) -> Iterator[Measured]:
    """All lines, each first with a tenth of the rows."""
    with tempfile.TemporaryDirectory() as folder:
        base = child("base", Path(folder, "none.csv"))["megabytes"]
        for way in NAMES if not only else ("remember", "repeat") if only == "repeat" else (only,):
            for count in (sent // 10, sent) if way == "send" else (rows // 10, rows):
                print(f"measuring: {NAMES[way]}, {count:,} rows", file=sys.stderr, flush=True)
                file = Path(folder, f"{count}.csv") if way == "state" else FILES.get(way, people)(Path(folder), count)
                found = child(way, file)
                if way in ("state", "repeat"):
                    file.with_suffix(".state").unlink()
                yield Measured(way, count, found["megabytes"] - base, found["cpu"], found["wall"], found["state_bytes"])


def people(folder: Path, rows: int) -> Path:
    """A file with this many rows of five columns, written once."""
    path = folder / f"{rows}.csv"
    if not path.exists():
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["email", "name", "phone", "city", "plan"])
            writer.writerows(
                [f"p{n}@x.org", f"Name {n}", f"+5531{n:09}", "Belo Horizonte", "trial"] for n in range(rows)
            )
    return path


MAPPING: dict[str, Any] = {
    **{name: name for name in ("email", "name", "phone", "city", "plan")},
    "score": {"column": "score", "type": "number"},
    "signed_up": {"column": "signed_up", "type": "date", "format": "%d/%m/%Y"},
    "active": {"column": "active", "type": "boolean"},
}
"""Of the columns of :func:`customers`."""


def customers(folder: Path, rows: int) -> Path:
    """A file with so many rows of eight columns, also of numbers, dates and booleans, written once; some are empty."""
    path, chance = folder / f"{rows}-customers.csv", random.Random(rows)
    if path.exists():
        return path
    names = ("Ana", "Jo\u00e3o", "Nina", "Maria Fernanda", "Ulisses", "Bob", "Zo\u00eb", "Pedro")
    users, hosts = ("ana", "joao.silva", "maria_f"), ("gmail.com", "x.org", "mail.com.br")
    cities = ("Belo Horizonte", "S\u00e3o Paulo", "New York, NY", "Lisboa", "", "Recife", "Porto Alegre", "Natal")
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["email", "name", "phone", "city", "plan", "score", "signed_up", "active"])
        writer.writerows(
            [
                f"{chance.choice(users)}{n}@{chance.choice(hosts)}",
                f"{chance.choice(names)} {n}",
                f"+5531{n:09}",
                chance.choice(cities),
                chance.choice(("trial", "pro", "")),
                f"{chance.uniform(0, 1000):.2f}",
                f"{date(2015, 1, 1) + timedelta(days=chance.randrange(4000)):%d/%m/%Y}",
                chance.choice(("yes", "no", "")),
            ]
            for n in range(rows)
        )
    return path


FILES = {"types": customers}
"""How the file of a line is written, if not by :func:`people`."""


def child(way: str, file: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, __file__, "--child", way, str(file)], stdout=subprocess.PIPE, text=True, check=True
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure(way: str, file: Path) -> dict[str, Any]:
    """Do the work of one line in this process. The base process has the same imports and open files."""
    began, state = time.monotonic(), file.with_suffix(".state")
    before = cpu_seconds()
    if way != "base":
        WAYS[way](file, state)
    return {
        "megabytes": peak(),
        "cpu": cpu_seconds() - before,
        "wall": time.monotonic() - began,
        "state_bytes": state.stat().st_size if state.exists() else 0,
    }


def check_rows(file: Path, _state: Path) -> None:
    summary = load(file, dry_run=True)
    assert summary.rows, "no row was checked"


def check_types(file: Path, _state: Path) -> None:
    summary = load(file, mapping=MAPPING, dry_run=True)
    assert summary.rows == summary.checked["to send"], summary.checked


def send_rows(file: Path, _state: Path) -> None:
    summary = load(file, checkpoints=FileCheckpoints(file.with_suffix(".checkpoint")))
    assert summary.counts == {Outcome.CREATED: summary.rows}, summary.counts


def use_state(file: Path, state: Path) -> None:
    """The contacts of the file are not used, because a state file has sorted keys of equal length in any case."""
    fingerprints, rows = Fingerprints(state, b"secret"), int(file.stem)
    fingerprints.finish()  # for its header
    with state.open("a", encoding="ascii") as lines:
        lines.writelines(f"{n:032x} {n:032x}\n" for n in range(0, 2**128, 2**128 // rows) if n)
    held = len(fingerprints)
    assert rows - 1 <= held <= rows, held
    for n in range(rows // 100):
        fingerprints.remember(Contact(f"new{n}@x.org", {"name": f"Name {n}"}))
    fingerprints.finish()
    fingerprints.load()
    assert len(fingerprints) == held + rows // 100
    fingerprints.close()


def remember_rows(file: Path, state: Path) -> None:
    fingerprints, mapper = Fingerprints(state, b"secret"), Mapper(None)
    for row in open_source(file).rows():
        fingerprints.remember(mapper(row))
    fingerprints.finish()


def repeat_rows(file: Path, state: Path) -> None:
    summary = load(file, fingerprints=Fingerprints(state, b"secret"))
    assert summary.counts == {Outcome.UNCHANGED: summary.rows}, summary.counts
    assert not summary.calls


WAYS = {
    "check": check_rows,
    "types": check_types,
    "send": send_rows,
    "state": use_state,
    "remember": remember_rows,
    "repeat": repeat_rows,
}


def load(file: Path, *, mapping: dict[str, Any] | None = None, dry_run: bool = False, **more: Any) -> Summary:
    settings, stats = Settings(api_key="sandbox-key", base_url="http://127.0.0.1:9"), RequestStats()
    HttpSession.round_trip = created  # type: ignore[method-assign]
    return LoadJob(
        source=open_source(file),
        mapper=Mapper(mapping),
        client=CrmClient(settings, transport=Transport(settings, limiter=UnlimitedRate(), observer=stats)),
        stats=stats,
        options=ContactOptions(plan="learned", dry_run=dry_run),
        policy=ErrorPolicy(work=Work.LOAD),
        rate=BIG_RATE,
        **more,
    ).run()


def created(_session: HttpSession, call: Call) -> CrmResponse:
    """The CRM, which has no contacts and creates each of them."""
    assert call.template in ("/contacts", "/contacts/{email}"), call.template
    if call.method == "POST":
        status, body = 201, {"id": "c", **call.body}
    else:
        status, body = 404, {"errorCode": "CONTACT_NOT_FOUND", "error": "Contact not found."}
    return CrmResponse(
        method=call.method, path=call.log_path, status=status, headers={}, body=json.dumps(body).encode()
    )


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def peak() -> float:
    """Peak memory of this process in megabytes. ``getrusage`` would include the parent process."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) / 1024


# -- the table ------------------------------------------------------------------------------------------------


def table(lines: list[Measured]) -> str:
    """The table in Markdown."""
    text = [
        f"Measured on {time.strftime('%Y-%m-%d')} with Python {platform.python_version()}, {platform.machine()}:",
        "",
        "| Rows are | Rows | Memory over the base | Processor time | for a million rows | State file |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for line in lines:
        state = f"{line.state_bytes / 1e6:,.0f} MB" if line.state_bytes else "-"
        text.append(
            f"| {NAMES[line.way]} | {line.rows:,} | {line.megabytes:.0f} MB | {line.cpu:,.0f} s | "
            f"{line.cpu / line.rows * 1e6:,.0f} s | {state} |"
        )
    return "\n".join(text)


if __name__ == "__main__":
    sys.exit(main())
