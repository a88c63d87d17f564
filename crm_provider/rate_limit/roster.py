"""The plan of the slots of a key's rate: all hosts read it from one shared text.

It has no clock, lock or I/O.

Time is divided into slots, one for each call that the CRM allows. Busy hosts use them in turn. Each host reads and
writes the shared text every :data:`PERIOD` seconds, at its own time, and announces its next exchange. A change (a host
that joins, needs less, or has ended) takes effect once all other hosts will have read it, so no slot has two owners.
Until then the slots of a dead host belong to the next one in the ring, which notices its absence first. A host that
leaves says so, and counts as dead at once.

All times are by the CRM's clock, which every host sees in the responses, so the clocks of the hosts do not matter.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

PERIOD = 10.0
"""Seconds between two exchanges of a host: one read and one write, so one request in five seconds."""

CHANGE_DELAY = 1.5
"""Seconds after everyone's next exchange until a change takes effect: for late exchanges and inexact clocks."""

LATE = 0.6
"""How late a host may be before the next one takes over its slots: a share of the time to that host's exchange."""

FORGOTTEN = 3 * PERIOD
"""Seconds after which a host without an exchange is removed from the text."""

WEIGHTS = (1, 2, 4, 8)
"""Weights of a host: the first for an occasional call, the last for a load."""

MOST_HOSTS = 500
"""Maximum hosts in the text; more would make it too large."""

LONGEST_ID = 64

BEHIND = "date_is_behind"
"""The key of :attr:`Roster.behind` in the text."""

Share = tuple[float, int]
"""Start time and weight."""


@dataclass(frozen=True)
class Host:
    """A host in the shared text.

    :param due: when its next exchange is due
    :param shares: weights and their start times, in order; before the first the weight is 0
    """

    due: float
    shares: tuple[Share, ...] = ()

    def weight(self, at: float) -> int:
        """The weight at a time."""
        return next((weight for begin, weight in reversed(self.shares) if begin <= at), 0)

    @property
    def final_weight(self) -> int:
        """The weight after all known changes."""
        return self.shares[-1][1] if self.shares else 0

    def changed(self, at: float, weight: int, now: float) -> Host:
        """The host with another weight from a time on; a change that has not taken effect is replaced."""
        return replace(self, shares=((now, self.weight(now)), (at, weight)))


@dataclass(frozen=True)
class Roster:
    """The hosts that share a key's rate, as one of them has read them.

    :param read_at: when it was read
    :param behind: when a host last noticed that the header ``Date`` of responses is more than a second behind
    """

    hosts: Mapping[str, Host] = field(default_factory=dict)
    read_at: float = -math.inf
    behind: float = -math.inf

    @classmethod
    def parse(cls, text: str | None, read_at: float) -> Roster:
        """Read the shared text. Invalid parts are dropped, because every host writes its entry again."""
        try:
            found = json.loads(text or "{}")
        except (ValueError, RecursionError):
            found = {}
        if not isinstance(found, dict):
            found = {}
        hosts = {}
        for name, entry in list(found.items())[:MOST_HOSTS]:
            host = _host(entry, read_at)
            if host is not None and len(name) <= LONGEST_ID:
                hosts[name] = host
        return cls(hosts, read_at, float(found[BEHIND]) if _is_time(found.get(BEHIND)) else -math.inf)

    def text(self) -> str:
        """The shared text."""
        entries: dict[str, Any] = {
            name: [round(host.due, 3), *([round(begin, 3), weight] for begin, weight in host.shares)]
            for name, host in sorted(self.hosts.items())
        }
        return json.dumps(entries | ({BEHIND: round(self.behind, 3)} if self.is_behind else {}))

    @property
    def is_behind(self) -> bool:
        """Whether headers ``Date`` may be more than a second behind: for an hour after a host has noticed it."""
        return self.read_at - self.behind < 3600

    def exchanged(self, me: str, weight: int) -> Roster:
        """The text that a host writes after reading this: its own next exchange, without hosts that missed theirs.

        :param weight: the weight that it needs; 0 if it leaves
        """
        now = self.read_at
        kept = {name: host for name, host in self.hosts.items() if name == me or host.due + FORGOTTEN > now}
        dead = self.dead(me)
        others = [host.due for name, host in kept.items() if name != me and name not in dead]
        change = max([now, *others]) + CHANGE_DELAY
        for name in dead & set(kept):
            if kept[name].final_weight:
                kept[name] = kept[name].changed(change, 0, now)
        mine = kept.get(me, Host(now))
        if mine.final_weight != weight:
            mine = mine.changed(change, weight, now)
        kept[me] = replace(mine, due=next_exchange(now, me, {*kept} - dead))
        return replace(self, hosts=kept)

    def left(self, me: str) -> Roster:
        """The text of a host that leaves: it counts as dead at once, so the next host takes its slots over."""
        return replace(self, hosts={**self.hosts, me: replace(self.hosts[me], due=self.read_at - PERIOD)})

    def dead(self, me: str) -> set[str]:
        """The hosts whose exchange was due before this was read."""
        late = LATE * PERIOD / max(len(self.hosts), 1)
        return {name for name, host in self.hosts.items() if name != me and host.due + late < self.read_at}

    def starts(self, me: str, at: float) -> float | None:
        """The time from which a host has slots: in the past if it has them, None if unknown."""
        host = self.hosts.get(me)
        times = [begin for begin, weight in host.shares if weight] if host else []
        return None if not times or host is None or not host.final_weight else at if host.weight(at) else times[-1]

    def next_slot(self, me: str, at: float, length: float) -> float:
        """The start of the first slot of a host at a time or later.

        :param length: seconds of a slot
        :return: its start; a period later if there is none
        """
        dead = self.dead(me)
        number = math.ceil(at / length - 1e-6)
        for begin, end in self._stretches(number * length):
            pattern = _pattern(self._weights(begin))
            owned = {place for place, name in enumerate(pattern) if self._heir(name, dead, begin) == me}
            first = max(number, math.ceil(begin / length - 1e-6))
            if not owned:
                continue
            for candidate in range(first, first + len(pattern)):
                if candidate % len(pattern) in owned and candidate * length < end:
                    return candidate * length
        return at + PERIOD

    def share(self, me: str, at: float) -> float:
        """The share of the slots of a host at a time."""
        pattern = _pattern(self._weights(at))
        dead = self.dead(me)
        return sum(self._heir(name, dead, at) == me for name in pattern) / max(len(pattern), 1)

    def active(self, at: float) -> int:
        """The number of hosts with slots at a time."""
        return len(self._weights(at))

    def _weights(self, at: float) -> tuple[tuple[str, int], ...]:
        weights = ((name, host.weight(at)) for name, host in sorted(self.hosts.items()))
        return tuple((name, weight) for name, weight in weights if weight)

    def _stretches(self, at: float) -> Iterator[tuple[float, float]]:
        """The intervals without a change, starting at a time."""
        changes = sorted({begin for host in self.hosts.values() for begin, _ in host.shares if begin > at})
        yield from zip([at, *changes], [*changes, math.inf], strict=True)

    def _heir(self, name: str, dead: Collection[str], at: float) -> str | None:
        """The user of a slot: its owner, or the first host after it that is alive."""
        if name not in dead:
            return name
        ring = [other for other, _ in self._weights(at)]
        place = ring.index(name)
        return next((other for other in ring[place + 1 :] + ring[:place] if other not in dead), None)


def next_exchange(now: float, me: str, names: Collection[str]) -> float:
    """The next exchange of a host: the exchanges are spread evenly over a period."""
    ring = sorted({*names, me})
    phase = PERIOD * ring.index(me) / len(ring)
    earliest = now + PERIOD / 4
    return earliest + (phase - earliest) % PERIOD


@lru_cache(maxsize=256)
def _pattern(weights: tuple[tuple[str, int], ...]) -> tuple[str, ...]:
    """The owners of the slots, which repeat: each host in proportion to its weight (stride scheduling)."""
    divisor = math.gcd(*(weight for _, weight in weights)) if weights else 1
    parts = {name: weight // divisor for name, weight in weights}
    passes = {name: 0.5 / part for name, part in parts.items()}
    owners = []
    for _ in range(sum(parts.values())):
        name = min(passes, key=lambda candidate: (passes[candidate], candidate))
        passes[name] += 1 / parts[name]
        owners.append(name)
    return tuple(owners)


def _host(entry: Any, read_at: float) -> Host | None:
    """A host of the shared text, None if its entry is invalid."""
    if not isinstance(entry, list) or not entry or not _is_near(entry[0], read_at) or len(entry) > 3:
        return None
    shares = []
    for share in entry[1:]:
        if not isinstance(share, list) or len(share) != 2 or not _is_time(share[0]) or share[1] not in (0, *WEIGHTS):
            return None
        shares.append((float(share[0]), int(share[1])))
    return Host(float(entry[0]), tuple(shares)) if shares == sorted(shares) else None


def _is_time(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e11


def _is_near(value: Any, read_at: float) -> bool:
    """Whether a host's next exchange is plausible: one that is hours ahead would never count as missed."""
    return _is_time(value) and value < read_at + 3 * PERIOD
