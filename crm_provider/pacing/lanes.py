"""Who draws on the budget of a key, and how much of it each may have when all want more than there is."""

from __future__ import annotations

from enum import Enum


class Lane(Enum):
    """A kind of caller: each lane gets its share of the budget, and what the others leave."""

    SINGLE = "single"
    """One call of a task, which a person or a pipeline waits for."""
    WAITING = "waiting"
    """Sensors and triggers that look again and again."""
    BULK = "bulk"
    """Loads and extracts of many rows."""


WEIGHTS: dict[Lane, float] = {Lane.SINGLE: 2.0, Lane.WAITING: 1.0, Lane.BULK: 1.0}
"""Shares of the lanes that have callers waiting; a load next to never-ending single calls keeps a third."""
