"""What a process holds while it works: memory, files, sockets and threads, and whether that grows."""

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
"""Share of the time that does not count: caches fill, and the allocator has not seen its largest load."""

LIMITS = {"megabytes": 8.0, "objects": 5_000.0, "files": 3.0, "sockets": 4.0, "threads": 4.0}
"""Growth in an hour from which something counts as leaking."""

UNITS = {"megabytes": "MB of memory (RSS)", "objects": "Python objects", "files": "open files", "sockets": "sockets",
         "threads": "threads"}  # fmt: skip


@dataclass(frozen=True)
class Sample:
    """What a process held at a time."""

    at: float
    held: dict[str, float]


def held_by(pid: int) -> dict[str, float]:
    """What a process holds now."""
    status = Path(f"/proc/{pid}/status").read_text("ascii")
    facts = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    links = []
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        try:
            links.append(str(fd.readlink()))
        except OSError:  # closed meanwhile
            continue
    sockets = sum(link.startswith("socket:") for link in links)
    return {
        "megabytes": int(facts["VmRSS"].split()[0]) / 1024,
        "files": float(len(links) - sockets),
        "sockets": float(sockets),
        "threads": float(facts["Threads"]),
    }


class Sampler(threading.Thread):
    """Samples a worker that lives as long as the soak."""

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
    """How much a process held, and what it gains in an hour.

    :param first: median of the first quarter after the warm-up
    :param last: median of the last quarter
    :param slope: of the line through all samples after the warm-up
    """

    what: str
    first: float
    last: float
    most: float
    slope: float

    @property
    def leaks(self) -> bool:
        """Both measures must say so: a slope alone may come from one busy moment."""
        return min(self.slope, self.last - self.first) > LIMITS[self.what]


def growths(samples: list[Sample]) -> list[Growth]:
    """For each thing that is held; none without enough samples."""
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
