"""Objects in processes of their own: called from here like local ones, killed and started again."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from multiprocessing import get_context
from multiprocessing.managers import BaseManager
from typing import Any

from side_by_side.worker import end_with_parent

DEAD = (EOFError, ConnectionError)
"""What a call raises whose process was killed meanwhile."""


class Manager(BaseManager):
    """Serves objects; their classes are registered when they are needed."""


class Remote:
    """An object that lives in a process of its own.

    :param make: its class, and what it is made with
    :ivar pid: of the process that lives now
    :ivar kills: how often it was killed
    """

    def __init__(self, make: type, *arguments: Any) -> None:
        self._make, self._arguments = make, arguments
        self._changing = threading.RLock()
        self.kills = 0
        self._start()

    def _start(self) -> None:
        Manager.register(self._make.__name__, self._make)
        self._manager: Any = Manager(ctx=get_context("spawn"))
        self._manager.start(initializer=end_with_parent)
        self._proxy = getattr(self._manager, self._make.__name__)(*self._arguments)
        self.pid: int = self._manager._process.pid

    def __call__(self, method: str, *arguments: Any) -> Any:
        """Call a method.

        :raises DEAD: if the process is killed before the method returns; it is called again by the caller or never
        """
        with self._changing:
            proxy = self._proxy
        return getattr(proxy, method)(*arguments)

    def kill(self) -> None:
        """SIGKILL, and a new process with a new object."""
        with self._changing:
            self.kills += 1
            os.kill(self.pid, signal.SIGKILL)
            self._manager._process.join()
            self._start()

    def stop(self) -> None:
        with self._changing, contextlib.suppress(*DEAD):
            self._manager.shutdown()
