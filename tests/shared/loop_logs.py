"""Finds log lines of this package that are written in an event loop.

A triggerer's parent process reads the log lines of its triggers, except while it sends them something. If the pipe of
the lines is full then, a line that is written in the event loop stops both processes forever.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import suppress

import pytest


class LoopLines(logging.Handler):
    """Collects the lines that are logged by a thread that runs an event loop."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(RuntimeError):
            asyncio.get_running_loop()
            self.lines.append(f"{record.name}:{record.lineno}: {record.getMessage()}")


@pytest.fixture
def no_loop_logs() -> Iterator[None]:
    """Fails the test if the package logs in an event loop."""
    logger, handler, level = logging.getLogger("crm_provider"), LoopLines(), logging.getLogger("crm_provider").level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield
    logger.removeHandler(handler)
    logger.setLevel(level)
    assert handler.lines == []
