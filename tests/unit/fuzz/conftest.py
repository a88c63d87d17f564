"""What all of these tests share: a limit for what hangs."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType

import pytest

SECONDS = 120
"""For one example, which takes milliseconds: only an endless loop takes so long on any machine."""

Guard = Callable[[], AbstractContextManager[None]]


@pytest.fixture(scope="session")
def ends() -> Guard:
    """Fails what does not end; for each example separately."""
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
