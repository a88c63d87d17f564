"""What it costs that hosts come and go which share a rate through Airflow, in simulated time.

    python tests/benchmarks/bench_rate_limit_hosts.py [--write docs/rate-budget.md]

It takes some minutes. With ``--write`` the figures replace what is between ``<!-- measured: hosts -->`` and
``<!-- measured: end hosts -->``.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
from itertools import pairwise, product
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tests.unit.rate_limit_hosts import Hosts, Machine, changing

LIVES, SKEWS, LATENCIES = (60.0, 120.0, 300.0), (0.0, 1.0), (0.05, 1.0)
BEGIN, UNTIL, SEEDS = 45.0, 225.0, (0, 1)
MARKS = re.compile(r"(<!-- measured: hosts -->\n).*?(<!-- measured: end hosts -->)", re.DOTALL)


def row(life: float, skew: float, latency: float) -> str:
    """The means of some runs."""
    runs = [Hosts(changing(life, UNTIL, seed, skew=skew, rest=latency), UNTIL, seed=seed).run() for seed in SEEDS]
    used, refused, fairness = (
        statistics.mean(getattr(run, name)(BEGIN, UNTIL) for run in runs) for name in ("used", "refusals", "fairness")
    )
    alive = sum(min(machine.dies, UNTIL) - machine.begins for run in runs for machine in run.machines)
    requests = sum(run.text.requests for run in runs) / alive * 5
    clocks = f"up to {skew:g} s wrong" if skew else "right"
    return (
        f"| {life / 60:g} min | {clocks} | {latency * 1000:g} ms | {used:.1%} | {refused:.1%} | {fairness:.3f} | "
        f"{requests:.2f} |"
    )


def unused(*, finishes: bool) -> list[float]:
    """Seconds from the end of one of eight hosts until its slots are used again."""
    found = []
    for number in range(8):
        dies = 60 + 1.3 * number
        machines = [Machine(begins=0.3 * n) for n in range(8)]
        machines[number] = Machine(begins=0.3 * number, dies=dies, finishes=finishes)
        calls = sorted(at for at, _ in Hosts(machines, dies + 30).run().sent if at > dies - 1)
        found.append(max([later - dies for earlier, later in pairwise(calls) if later - earlier > 0.3], default=0.0))
    return found


def main() -> None:
    """Print the figures, or write them into a document."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", type=Path, help="a document with the marks")
    options = parser.parse_args()
    lines = [
        "| Mean life of a host | Clocks | Latency | Limit used | Refused | Fairness | Requests to Airflow in 5 s |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        *(row(*case) for case in product(LIVES, SKEWS, LATENCIES)),
        "",
    ]
    for finishes, end in ((True, "ends by itself"), (False, "is killed")):
        times = unused(finishes=finishes)
        lines.append(
            f"The slots of a host that {end} are used again after {statistics.mean(times):.1f} s on average, and "
            f"{max(times):.1f} s at most (8 runs)."
        )
    text = "\n".join(lines)
    print(text)
    if options.write:
        document = options.write.read_text(encoding="utf-8")
        if not MARKS.search(document):
            sys.exit(f"{options.write} has no marks of these figures")
        options.write.write_text(MARKS.sub(lambda marks: f"{marks[1]}{text}\n{marks[2]}", document), encoding="utf-8")


if __name__ == "__main__":
    main()
