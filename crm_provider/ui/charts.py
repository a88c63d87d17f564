"""Geometry of the charts, which are SVG: the bar of a run, and the trend of several. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from crm_provider.load.rows import duration
from crm_provider.ui.results import OUTCOMES
from crm_provider.values.counted import counted

BAR_WIDTH, LEAST_WIDTH = 1000.0, 6.0
"""Width of the whole bar, and of its smallest part: one rejected row of a million must be visible."""

SLOT, THICKNESS, HEIGHT, LEAST_HEIGHT, MARK = 12.0, 9.0, 34.0, 2.0, 4.0
"""Sizes of a run in a trend: width with the gap, width of the column, heights of the highest column, of the smallest
part and of the mark below the column. The mark has the colour of the run's state."""


@dataclass(frozen=True, kw_only=True)
class BarSegment:
    """A piece of a bar.

    :param at: where it begins
    :param size: how long it is
    """

    name: str
    rows: int
    at: float
    size: float


@dataclass(frozen=True, kw_only=True)
class TrendPoint:
    """A run in a trend.

    :param tone: of the run's ending
    :param counts: outcome -> rows
    :param seconds: its duration, None while it runs
    """

    tone: str
    counts: Mapping[str, int]
    seconds: float | None


@dataclass(frozen=True, kw_only=True)
class TrendBar:
    """A run in a trend, drawn."""

    x: float
    tone: str
    parts: Sequence[BarSegment]


@dataclass(frozen=True, kw_only=True)
class Trend:
    """The last runs, the oldest on the left.

    :param line: points of the durations, for ``polyline``
    :param text: the chart in words, for screen readers
    """

    width: float
    columns: Sequence[TrendBar]
    line: str
    text: str


def segments_of(counts: Mapping[str, int], *, size: float = BAR_WIDTH, least: float = LEAST_WIDTH) -> list[BarSegment]:
    """The parts of a bar: proportional to their share, with a visible minimum."""
    some = {name: counts[name] for name in OUTCOMES if counts.get(name)}
    total = sum(some.values())
    wished = {name: max(count / total * size, least) for name, count in some.items()}
    scale = size / sum(wished.values()) if wished else 1.0
    parts, at = [], 0.0
    for name, count in some.items():
        part = wished[name] * scale
        parts.append(BarSegment(name=name, rows=count, at=round(at, 2), size=round(part, 2)))
        at += part
    return parts


def words_of(counts: Mapping[str, int]) -> str:
    """A bar in words, for screen readers."""
    return ", ".join(f"{counts[name]:,} {name}" for name in OUTCOMES if counts.get(name))


def trend_of(points: Sequence[TrendPoint]) -> Trend:
    """The last runs as stacked columns, and their durations as a line.

    :param points: the oldest first
    """
    most = max((sum(point.counts.values()) for point in points), default=0)
    columns = []
    for number, point in enumerate(points):
        rows = sum(point.counts.values())
        height = max(rows / most * HEIGHT, LEAST_HEIGHT) if rows else 0.0
        parts = segments_of(point.counts, size=height, least=min(LEAST_HEIGHT, height))
        columns.append(TrendBar(x=number * SLOT, tone=point.tone, parts=_from_below(parts)))
    line = _line(points) if most else ""  # alone it would look like a number of rows
    return Trend(width=max(len(points), 1) * SLOT, columns=columns, line=line, text=_text(points))


def _from_below(parts: Sequence[BarSegment]) -> list[BarSegment]:
    """Parts stacked from the bottom of the chart; ``at`` is the upper edge of each, as in SVG."""
    return [
        BarSegment(name=part.name, rows=part.rows, at=round(HEIGHT - part.at - part.size, 2), size=part.size)
        for part in parts
    ]


def _line(points: Sequence[TrendPoint]) -> str:
    longest = max((point.seconds or 0.0 for point in points), default=0.0)
    known = [(number, point.seconds) for number, point in enumerate(points) if point.seconds is not None]
    if len(known) < 2 or not longest:
        return ""
    return " ".join(
        f"{number * SLOT + THICKNESS / 2:g},{HEIGHT - 2 - seconds / longest * (HEIGHT - 4):.1f}"
        for number, seconds in known
    )


def _text(points: Sequence[TrendPoint]) -> str:
    if not points:
        return "No runs"
    tones: dict[str, int] = {}
    for point in points:
        tones[point.tone] = tones.get(point.tone, 0) + 1
    ended = ", ".join(f"{count} {tone}" for tone, count in tones.items())
    took = [point.seconds for point in points if point.seconds is not None]
    range_ = f"; they took {duration(min(took))} to {duration(max(took))}" if took else ""
    return f"The last {counted(len(points), 'run')}: {ended}{range_}"
