"""A Redis server on a free port, for tests and benchmarks. It keeps nothing on disk."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from types import TracebackType
from typing import TYPE_CHECKING

from airflow_env import ReservedPort

if TYPE_CHECKING:
    from typing_extensions import Self

HOW_TO_GET_IT = "redis-server is not installed; get it with `apt-get install redis-server` or `brew install redis`"


class RedisServer:
    """A running server. ``stop`` and ``start`` keep the port until the end of the ``with`` block.

    :param password: the password of clients
    :raises FileNotFoundError: the program is not installed
    """

    def __init__(self, *, password: str = "") -> None:
        program = shutil.which("redis-server")
        if program is None:
            raise FileNotFoundError(HOW_TO_GET_IT)
        self._reserved = ReservedPort()
        self.port = self._reserved.number
        self.password = password
        self._command = [program, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        if password:
            self._command += ["--requirepass", password]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The URL for ``rate_store``."""
        user = f":{self.password}@" if self.password else ""
        return f"redis://{user}127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start an empty server and wait until it responds."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while not self._responds():
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise RuntimeError(f"redis-server does not respond on port {self.port}")
            time.sleep(0.02)

    def stop(self) -> None:
        """End the server and lose its data."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _responds(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
        self._reserved.release()
