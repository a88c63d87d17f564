"""Database servers on free loopback ports, for the system tests: PostgreSQL and MariaDB.

As root, they run as the users that their Debian packages create, because PostgreSQL refuses to run as root. Otherwise
they run as the caller. Their data is in a new folder, which is deleted with them. On Linux they also end if this
process is killed.
"""

from __future__ import annotations

import abc
import importlib
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_env import ReservedPort

if TYPE_CHECKING:
    from typing_extensions import Self

PATH = os.pathsep.join(
    [os.environ.get("PATH", os.defpath), "/usr/sbin", *map(str, Path("/usr/lib/postgresql").glob("*/bin"))]
)
"""Folders of the programs. Debian has one per version of PostgreSQL."""

PATIENCE = 120.0
"""Seconds until a server without a response counts as broken."""


class SqlServer(abc.ABC):
    """A running server with an empty database and the user ``crm``, who has all rights in it.

    :raises FileNotFoundError: its program is not installed
    """

    program: ClassVar[str]
    package: ClassVar[str]
    os_user: ClassVar[str]
    conn_type: ClassVar[str]
    driver: ClassVar[str]
    stop_signal: ClassVar[str]
    """The signal that ends the server without waiting for its clients."""

    database: ClassVar[str]
    user = "crm"
    password = "s3rver-Secret"

    def __init__(self) -> None:
        if find(self.program) is None:
            raise FileNotFoundError(f"{self.program} is not installed; get it with `apt-get install {self.package}`")
        self._reserved = ReservedPort()
        self.port = self._reserved.number
        self.folder = Path(tempfile.mkdtemp(prefix=f"crm-{self.os_user}-"))
        self._log = self.folder.with_suffix(".log")
        self._process: subprocess.Popen[bytes] | None = None

    # -- differences between the servers

    @abc.abstractmethod
    def connect(self) -> Any:
        """A connection that commits each statement."""

    @abc.abstractmethod
    def _create(self) -> None:
        """Create the data folder."""

    @abc.abstractmethod
    def _arguments(self) -> list[str]:
        """The command line of the server."""

    # -- for tests

    def connection_json(self, **extra: Any) -> str:
        """An Airflow connection, as the value of ``AIRFLOW_CONN_...``."""
        return json.dumps({
            "conn_type": self.conn_type, "host": "127.0.0.1", "port": self.port, "login": self.user,
            "password": self.password, "schema": self.database, "extra": extra,
        })  # fmt: skip

    def execute(self, *statements: str) -> None:
        connection = self.connect()
        try:
            cursor = connection.cursor()
            for statement in statements:
                cursor.execute(statement)
        finally:
            connection.close()

    def __enter__(self) -> Self:
        try:
            if os.geteuid() == 0:
                shutil.chown(self.folder, self.os_user)
            self._create()
            self._process = self._run(self._arguments())
            self._wait()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End the server and delete its data."""
        if self._process is not None:
            self._process.send_signal(getattr(signal, f"SIG{self.stop_signal}"))
            self._process.wait(PATIENCE)
            self._process = None
        shutil.rmtree(self.folder, ignore_errors=True)
        self._log.unlink(missing_ok=True)
        self._reserved.release()

    # -- processes

    def _run(self, command: list[str]) -> subprocess.Popen[bytes]:
        program, *arguments = command
        with self._log.open("ab") as output:
            return subprocess.Popen(
                [*self._launcher(), str(find(program)), *arguments],
                cwd=self.folder, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip

    def _launcher(self) -> list[str]:
        """A command prefix that starts a program as the server's user and ends it with this process."""
        if sys.platform != "linux":
            return []
        user = [f"--reuid={self.os_user}", f"--regid={pwd.getpwnam(self.os_user).pw_gid}", "--init-groups"]
        return ["setpriv", *(user if os.geteuid() == 0 else []), f"--pdeathsig={self.stop_signal}", "--"]

    def _run_to_its_end(self, command: list[str]) -> None:
        if self._run(command).wait(PATIENCE):
            raise RuntimeError(f"{command[0]} failed:\n{self._tail()}")

    def _wait(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while not self._responds():
            if time.monotonic() > deadline or self._process is None or self._process.poll() is not None:
                raise RuntimeError(f"{self.program} does not respond on port {self.port}:\n{self._tail()}")
            time.sleep(0.05)

    def _responds(self) -> bool:
        try:
            self.connect().close()
        except importlib.import_module(self.driver).Error:
            return False
        return True

    def _tail(self) -> str:
        return self._log.read_text(errors="replace")[-3000:]


class PostgresServer(SqlServer):
    """PostgreSQL, in UTF-8."""

    program, package, os_user, conn_type, stop_signal = "postgres", "postgresql", "postgres", "postgres", "INT"
    driver = "psycopg"
    database = "postgres"  # a database of each server

    def connect(self) -> Any:
        import psycopg

        return psycopg.connect(
            host="127.0.0.1", port=self.port, user=self.user, password=self.password, dbname=self.database,
            autocommit=True, connect_timeout=10,
        )  # fmt: skip

    def _create(self) -> None:
        secret = self.folder / "password"
        secret.write_text(self.password)
        options = ("--auth=scram-sha-256", "--encoding=UTF8", "--no-locale", "--no-sync")
        names = (f"--username={self.user}", f"--pwfile={secret}", f"--pgdata={self.folder / 'data'}")
        self._run_to_its_end(["initdb", *options, *names])

    def _arguments(self) -> list[str]:
        settings = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "off"}
        chosen = [f"--{name}={value}" for name, value in settings.items()]
        return ["postgres", "-D", str(self.folder / "data"), "-p", str(self.port), *chosen]


class MariaDbServer(SqlServer):
    """MariaDB with utf8mb4, which clients must request. The default is latin1, as without Debian's settings."""

    program, package, os_user, conn_type, stop_signal = "mariadbd", "mariadb-server", "mysql", "mysql", "TERM"
    driver = "pymysql"
    database = "crm"

    def connect(self) -> Any:
        import pymysql

        return pymysql.connect(
            host="127.0.0.1", port=self.port, user=self.user, password=self.password, database=self.database,
            autocommit=True, connect_timeout=10, charset="utf8mb4",
        )  # fmt: skip

    def _create(self) -> None:
        options = ("--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db")
        self._run_to_its_end(["mariadb-install-db", *options, f"--datadir={self.folder / 'data'}"])
        (self.folder / "init.sql").write_text(
            f"CREATE DATABASE IF NOT EXISTS {self.database} CHARACTER SET utf8mb4;\n"
            f"CREATE USER {self.user}@'127.0.0.1' IDENTIFIED BY '{self.password}';\n"
            f"GRANT ALL ON *.* TO {self.user}@'127.0.0.1';\n"
        )

    def _arguments(self) -> list[str]:
        settings = {
            "datadir": self.folder / "data", "port": self.port, "bind-address": "127.0.0.1",
            "socket": self.folder / "socket", "pid-file": self.folder / "pid", "init-file": self.folder / "init.sql",
            "innodb-flush-log-at-trx-commit": 0,
        }  # fmt: skip
        chosen = [f"--{name}={value}" for name, value in settings.items()]
        return ["mariadbd", "--no-defaults", "--skip-name-resolve", *chosen]


def find(program: str) -> str | None:
    return shutil.which(program, path=PATH)
