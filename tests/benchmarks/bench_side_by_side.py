"""Compares this provider with hand-written code: the same work, sandbox and faults in one run.

    python tests/benchmarks/bench_side_by_side.py [--rows 2000] [--loop 400] [--write docs/performance.md]

- *a file of leads*, with one ``HttpOperator`` per row, with a loop of ``requests`` and ``tenacity``, and with a load.
  The DAGs are in ``rivals/``. Airflow's task runner runs each in its own process against its own CRM (5 calls per
  second, burst 2, 200 ms a call), all at the same time;
- *faults*, and the wrong outcomes;
- *one call*, compared with a bare ``requests.Session``;
- *waiting*, compared with the HTTP provider's sensor.

It takes a quarter of an hour, the time of the loop for 2,000 rows, or less with ``--loop``. It prints whether each
target is met, and fails if one is missed. With ``--write`` the tables replace the text between
``<!-- side-by-side:begin -->`` and ``<!-- side-by-side:end -->``.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from side_by_side import tables
from side_by_side.faults import Case, Wrong, proxy_script, script, suffer
from side_by_side.figures import Bar, Load, bars
from side_by_side.leads import Fewest, leads
from side_by_side.loads import load
from side_by_side.overhead import Cost, overhead
from side_by_side.waiting import HTTP, OURS, Waited, wait
from side_by_side.ways import HTTP_OPERATOR, REQUESTS_LOOP, WAYS
from side_by_side.ways import OURS as LOAD

MARKS = re.compile(r"(<!-- side-by-side:begin -->\n).*?(<!-- side-by-side:end -->)", re.DOTALL)
FEW, MANY = 10, 1_000
CALLS = 2_000

Found = TypeVar("Found")


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The number of rows for each client. The cost grows with it."""

    rows: int
    loop: int
    sample: int


@dataclass(frozen=True, kw_only=True)
class Everything:
    """All measurements. Lists are in the order of the clients."""

    rows: int
    first: list[Load]
    again: list[Load]
    mixed: list[Wrong]
    proxy: list[Wrong]
    costs: list[Cost]
    waited: list[Waited]

    @property
    def bars(self) -> list[Bar]:
        ours, ours_again = self.first[2], self.again[2]
        return bars(
            first=ours,
            again=ours_again,
            rival_again=self.again[1],
            fewest=Fewest.of(leads(self.rows)).calls,
            wrong=self.mixed[2].outcomes + self.proxy[2].outcomes + ours_again.not_loaded,
        )

    def text(self) -> str:
        fewest = Fewest.of(leads(self.rows)).calls
        parts = [
            tables.where(),
            "### A file of leads", *tables.loads(WAYS, self.first, self.again, fewest),
            "### Faults", *tables.faults(WAYS, self.mixed, self.proxy),
            "### One call", *tables.overhead(self.costs),
            "### Waiting", *tables.waiting(self.waited),
            "### Targets", *tables.bars(self.bars),
        ]  # fmt: skip
        return "\n\n".join(parts)


def main() -> None:
    options = parsed()
    sizes = Sizes(rows=options.rows, loop=options.loop or options.rows, sample=min(options.sample, options.rows))
    found = measure(sizes, options.seconds)
    text = found.text()
    print(text)
    if options.write:
        document = options.write.read_text(encoding="utf-8")
        options.write.write_text(MARKS.sub(lambda m: f"{m[1]}\n{text}\n\n{m[2]}", document), encoding="utf-8")
    missed = [bar.name for bar in found.bars if bar.met is False]
    if missed:
        sys.exit(f"missed: {'; '.join(missed)}")


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=2_000, help="rows of the file (default: %(default)s)")
    parser.add_argument(
        "--sample",
        type=int,
        default=80,
        help="rows of the file for the HttpOperator, one task each (default: %(default)s)",
    )
    parser.add_argument("--loop", type=int, help="rows of the file for the loop, to save time (default: all)")
    parser.add_argument("--seconds", type=float, default=60.0, help="measured time of waiting (default: %(default)s)")
    parser.add_argument("--write", type=Path, help="a document with the marks")
    options = parser.parse_args()
    if options.write and not MARKS.search(options.write.read_text(encoding="utf-8")):
        sys.exit(f"{options.write} has no markers <!-- side-by-side:begin --> and <!-- side-by-side:end -->")
    return options


def measure(sizes: Sizes, seconds: float) -> Everything:
    """Measure processor time first and alone. The other parts mostly wait, so they run in parallel."""
    start = time.monotonic()

    def timed(title: str, work: Callable[[], Found]) -> Found:
        found = work()
        print(f"{time.monotonic() - start:5.0f} s  {title}", file=sys.stderr, flush=True)
        return found

    costs = timed("one call", lambda: overhead(CALLS))
    crowd = timed(f"{MANY:,} HttpSensors", lambda: wait(HTTP, MANY, seconds))
    with tempfile.TemporaryDirectory(prefix="crm-side-") as name, ThreadPoolExecutor(7) as pool:
        folder = Path(name)

        def begin(title: str, work: Callable[[], Found]) -> Future[Found]:
            return pool.submit(timed, title, work)

        loop = begin("the loop", lambda: load(REQUESTS_LOOP, sizes.loop, folder, days=[0]))
        loop_again = begin("the loop, a day later", lambda: load(REQUESTS_LOOP, sizes.loop, folder, days=[1]))
        ours = begin("the load, on both days", lambda: load(LOAD, sizes.rows, folder))
        tasks = begin("the HttpOperators, on both days", lambda: load(HTTP_OPERATOR, sizes.sample, folder))
        waits = begin(
            "other sensors", lambda: [wait(*one, seconds) for one in ((OURS, FEW), (HTTP, FEW), (OURS, MANY))]
        )
        mixed = begin("faults", lambda: suffered(script(), folder / "mixed"))
        proxy = begin("a proxy's page", lambda: suffered(proxy_script(), folder / "proxy"))
        few_ours, few_http, many_ours = waits.result()
        return Everything(
            rows=sizes.rows,
            first=[tasks.result()[0], loop.result()[0], ours.result()[0]],
            again=[tasks.result()[1], loop_again.result()[0], ours.result()[1]],
            mixed=mixed.result(),
            proxy=proxy.result(),
            costs=costs,
            waited=[few_ours, few_http, many_ours, crowd],
        )


def suffered(cases: list[Case], folder: Path) -> list[Wrong]:
    """Each client under the same faults, one after the other."""
    folder.mkdir()
    return [suffer(way, cases, folder / Path(way.file).stem) for way in WAYS]


if __name__ == "__main__":
    os.environ["NO_PROXY"] = "127.0.0.1"
    main()
