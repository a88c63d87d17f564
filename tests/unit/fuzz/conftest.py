"""Shared by all fuzz tests: a time limit for tests that hang."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType

import pytest

SECONDS = 120
"""Limit for one example, which takes milliseconds. Only an endless loop takes this long on any machine."""

Guard = Callable[[], AbstractContextManager[None]]


@pytest.fixture(scope="session")
def ends() -> Guard:
    """Fail a test that hangs, with a limit for each example."""
    return _ends


@contextmanager
def _ends() -> Iterator[None]:
    def too_long(_number: int, _frame: FrameType | None) -> None:
        pytest.fail(f"it goes on after {SECONDS} s")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
