"""Objects in other processes, which are called like local ones and can be killed and restarted."""

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
"""Exceptions of a call whose process is killed meanwhile."""


class Manager(BaseManager):
    """Serves objects whose classes are registered when they are needed."""


class Remote:
    """An object in another process.

    :param make: its class and arguments
    :ivar pid: id of the current process
    :ivar kills: number of kills
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

        :raises DEAD: the process is killed before the method returns. Only the caller may call the method again
        """
        with self._changing:
            proxy = self._proxy
        return getattr(proxy, method)(*arguments)

    def kill(self) -> None:
        """Kill the process (SIGKILL) and start a new one with a new object."""
        with self._changing:
            self.kills += 1
            os.kill(self.pid, signal.SIGKILL)
            self._manager._process.join()
            self._start()

    def stop(self) -> None:
        with self._changing, contextlib.suppress(*DEAD):
            self._manager.shutdown()
