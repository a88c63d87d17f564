"""A clock that another process can change: importing this shifts ``time.time`` by the seconds in a file.

The machine's clock and its other readers, such as Airflow's heartbeats and tokens, are not affected.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

VARIABLE = "SHIFTED_CLOCK"
"""Names the file."""

_true = time.time


def shifted() -> float:
    """The shifted time of day."""
    return _true() + float(Path(os.environ[VARIABLE]).read_text(encoding="utf-8"))


def set_off(file: Path, seconds: float) -> None:
    """Shift the clocks of all processes that read this file."""
    new = file.with_suffix(".new")
    new.write_text(str(seconds), encoding="utf-8")
    new.replace(file)


if VARIABLE in os.environ:
    time.time = shifted
