"""Memory, files, sockets and threads of a working process, and their growth."""

from __future__ import annotations

import statistics
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from .findings import Findings
from .processes import Remote

EVERY = 10.0
"""Seconds between two samples."""

WARM_UP = 1 / 3
"""Share of the time that does not count, because caches are filling and the largest load is yet to come."""

LIMITS = {"megabytes": 8.0, "objects": 5_000.0, "files": 3.0, "sockets": 4.0, "threads": 4.0}
"""Growth per hour that counts as a leak."""

UNITS = {"megabytes": "MB of memory (RSS)", "objects": "Python objects", "files": "open files", "sockets": "sockets",
         "threads": "threads"}  # fmt: skip


@dataclass(frozen=True)
class Sample:
    """Resources of a process at one time."""

    at: float
    held: dict[str, float]


def held_by(pid: int) -> dict[str, float]:
    """The current resources of a process."""
    status = Path(f"/proc/{pid}/status").read_text("ascii")
    facts = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    links = []
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        try:
            links.append(str(fd.readlink()))
        except OSError:  # closed in the meantime
            continue
    sockets = sum(link.startswith("socket:") for link in links)
    return {
        "megabytes": int(facts["VmRSS"].split()[0]) / 1024,
        "files": float(len(links) - sockets),
        "sockets": float(sockets),
        "threads": float(facts["Threads"]),
    }


class Sampler(threading.Thread):
    """Samples the worker that is not killed."""

    def __init__(self, worker: Remote) -> None:
        super().__init__(daemon=True, name="sampler")
        self._worker = worker
        self.samples: list[Sample] = []
        self.ended = threading.Event()

    def run(self) -> None:
        number = 0
        while not self.ended.wait(EVERY):
            held = held_by(self._worker.pid)
            if number % 6 == 0:
                held["objects"] = float(self._worker("objects"))
            number += 1
            self.samples.append(Sample(time.monotonic(), held))


@dataclass(frozen=True)
class Growth:
    """Use of a resource and its growth per hour.

    :param first: median of the first quarter after the warm-up
    :param last: median of the last quarter
    :param slope: slope of the line through all samples after the warm-up
    """

    what: str
    first: float
    last: float
    most: float
    slope: float

    @property
    def leaks(self) -> bool:
        """Whether both measures exceed the limit: a slope alone may come from one busy moment."""
        return min(self.slope, self.last - self.first) > LIMITS[self.what]


def growths(samples: list[Sample]) -> list[Growth]:
    """The growth of each resource; empty without enough samples."""
    counted = samples[int(len(samples) * WARM_UP) :]
    found = []
    for what in LIMITS:
        points = [(sample.at / 3600, sample.held[what]) for sample in counted if what in sample.held]
        if len(points) >= 8:
            values, quarter = [value for _, value in points], len(points) // 4
            slope = statistics.linear_regression(*zip(*points, strict=True)).slope
            first, last = statistics.median(values[:quarter]), statistics.median(values[-quarter:])
            found.append(Growth(what, first, last, max(values), slope))
    return found


def check(found: list[Growth], findings: Findings) -> None:
    for growth in found:
        gain = f"from {growth.first:,.0f} to {growth.last:,.0f}, {growth.slope:+,.1f} an hour"
        findings.require(not growth.leaks, f"{UNITS[growth.what]} grow: {gain}")
