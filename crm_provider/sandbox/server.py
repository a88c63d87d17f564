"""The sandbox for Python: a server in a thread, with methods for its state, its faults and its journal."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any

from crm_provider.sandbox.fault_rules import FaultStatus
from crm_provider.sandbox.faults import Fault
from crm_provider.sandbox.gateway import Gateway
from crm_provider.sandbox.journal import Counters, JournalEntry
from crm_provider.sandbox.seeds import StateFile, snapshot
from crm_provider.sandbox.settings import (
    BASE_PATH,
    Clock,
    SandboxOptions,
    SandboxSettings,
    is_loopback,
    split_host,
)
from crm_provider.sandbox.store import CrmStore, JsonObject

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from crm_provider.sandbox.http_server import ServerThread


class Sandbox:
    """A local stand-in for the API, on a loopback port of this machine.

    Example::

        with Sandbox(seed="demo", rate=5, burst=2, envelope="v1") as sandbox:
            sandbox.add_fault(effect="lost", method="POST", path="/contacts", count=1)
            requests.get(f"{sandbox.url}/contacts/ada@example.com", headers={"x-api-key": sandbox.api_key})
            assert sandbox.counters().total == 1

    :param host: a loopback address; anything else is refused
    :param port: 0 chooses a free port
    :param allowed_hosts: host names besides this machine's loopback under which clients may reach it, for example
        through a proxy: ``name`` for any port, or ``name:port``
    :param clock: the time for the rate limit, delays, lifetimes, ``createdAt`` and the header ``Date``; see
        :class:`~crm_provider.sandbox.ManualClock`
    :param state: file that keeps the data for the next sandbox, see :class:`~crm_provider.sandbox.seeds.StateFile`. It
        takes precedence over the seed. Settings, faults and the journal are not kept
    :param settings: the fields of :class:`~crm_provider.sandbox.SandboxSettings`
    :raises ValueError: a setting, the seed, the state or a host is invalid
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        allowed_hosts: Sequence[str] = (),
        clock: Clock | None = None,
        state: str | os.PathLike[str] | None = None,
        **settings: Unpack[SandboxOptions],
    ) -> None:
        self._host = loopback_address(host)
        self._port = port
        self._allowed_hosts = tuple(allowed_hosts)
        for name in self._allowed_hosts:
            split_host(name)  # raises if it is not a host
        chosen, file = SandboxSettings(**settings), None if state is None else StateFile(state)
        if file is not None:
            chosen = replace(chosen, seed=file.seed(chosen.seed))
        self._gateway = Gateway(chosen, clock=clock, keep=None if file is None else file.write)
        self._server: ServerThread | None = None

    # -- life ------------------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Start the server and return when it responds.

        :raises OSError: the port is in use
        """
        # imported here: a test suite that only loads the pytest plugin should not load a web framework
        from crm_provider.sandbox.http_server import ServerThread

        if self._server is not None:
            raise RuntimeError("the sandbox is running already")
        listener = _listen(self._host, self._port)
        self._port = listener.getsockname()[1]
        server = ServerThread(self._gateway, listener, allowed_hosts=self._allowed_hosts)
        server.start()
        self._server = server
        return self

    def stop(self) -> None:
        """Stop the server if it runs. The state stays available."""
        if self._server is not None:
            self._server.stop()
            self._server = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # -- addresses and key -----------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """The base URL, with ``/v2``."""
        return f"{self.root_url}{BASE_PATH}"

    @property
    def root_url(self) -> str:
        """Scheme, host and port. The admin routes are below ``/__sandbox__`` of it.

        :raises RuntimeError: it was never started, so it has no port
        """
        if not self._port:
            raise RuntimeError("the sandbox has no port before it is started")
        return f"http://[{self._host}]:{self._port}" if ":" in self._host else f"http://{self._host}:{self._port}"

    @property
    def running(self) -> bool:
        """Whether the server is up."""
        return self._server is not None and self._server.running

    @property
    def api_key(self) -> str | None:
        """The key that is accepted now, None if every key is rejected."""
        return self.settings.api_key

    def connection_json(self, **extra: Any) -> str:
        """The Airflow connection to this sandbox: a value for ``AIRFLOW_CONN_CRM_DEFAULT``.

        :param extra: the connection's extras, for example ``timeout=2``
        """
        return json.dumps({"conn_type": "crm", "host": self.url, "password": self.api_key, "extra": extra})

    # -- state and settings ----------------------------------------------------------------------------------

    @property
    def store(self) -> CrmStore:
        """The state of the CRM, which may be read and changed."""
        return self._gateway.store

    @property
    def settings(self) -> SandboxSettings:
        """The current settings."""
        return self._gateway.settings

    def configure(self, *, stays: bool = False, **changes: Unpack[SandboxOptions]) -> SandboxSettings:
        """Change settings until the next reset, for example ``configure(api_key=None)``: the key is revoked.

        :param stays: whether a reset keeps the changes
        :raises ValueError: a value is invalid, or the field (seed, journal_size) can only be changed by a reset
        """
        settings = self._gateway.configure(**changes)
        if stays:
            self._gateway.start_settings = replace(self._gateway.start_settings, **changes)
        return settings

    def reset(self, settings: SandboxSettings | None = None) -> None:
        """Start again with the seed's state, the initial settings and a full bucket, without faults and journal.

        :param settings: initial settings from now on; None keeps the current ones
        """
        self._gateway.reset(settings)

    def snapshot(self) -> JsonObject:
        """The state as a seed document: ``Sandbox(seed=sandbox.snapshot())`` restores it."""
        return snapshot(self.store)

    # -- faults ----------------------------------------------------------------------------------------------

    def add_fault(self, fault: Fault | None = None, /, **fields: Any) -> Fault:
        """Add a fault rule.

        :param fault: the rule; or pass the fields of :class:`~crm_provider.sandbox.Fault`
        :return: the rule with its name
        :raises ValueError: the rule is invalid; the message names the nearest valid choice
        """
        if fault is not None and fields:
            raise TypeError("pass a Fault or its fields, not both")
        with self._gateway.lock:
            return self._gateway.faults.add(fault or Fault(**fields))

    def remove_fault(self, name: str) -> bool:
        """Remove a rule; False if there is none with this name."""
        with self._gateway.lock:
            return self._gateway.faults.remove(name)

    def clear_faults(self) -> None:
        """Remove all rules. Magic addresses are not affected."""
        with self._gateway.lock:
            self._gateway.faults.clear()

    def faults(self) -> list[FaultStatus]:
        """The rules with their counters."""
        with self._gateway.lock:
            return self._gateway.faults.statuses()

    # -- journal ---------------------------------------------------------------------------------------------

    def journal(
        self,
        *,
        since: int = 0,
        method: str | None = None,
        route: str | None = None,
        status: int | None = None,
        email: str | None = None,
    ) -> list[JournalEntry]:
        """The requests that match all of these, oldest first.

        :param since: only requests with a greater ``seq``
        :param route: path with placeholders, for example ``/contacts/{email}``
        :param email: only requests about this contact
        """
        with self._gateway.lock:
            return self._gateway.journal.entries(
                since=since, method=method, route=route, status=status, email=self._gateway.hasher.hash(email)
            )

    def counters(self) -> Counters:
        """Totals since the start or the last reset."""
        with self._gateway.lock:
            return self._gateway.journal.counters()


def loopback_address(host: str) -> str:
    """The address to listen on.

    :raises ValueError: other machines could reach it
    """
    address = "127.0.0.1" if host == "localhost" else host
    if not is_loopback(address):
        raise ValueError(
            f"the sandbox listens on loopback only, not on {host!r}: its admin routes have no password and reveal all "
            "data. Use 127.0.0.1, ::1 or localhost"
        )
    return address


def _listen(host: str, port: int) -> socket.socket:
    # The protocol is named because asyncio sets TCP_NODELAY only then. Without it each response on a kept connection
    # waits 40 ms for an acknowledgement.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if os.name == "posix":  # frees the port of a sandbox that has just stopped; on Windows its meaning differs
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen()
    except (OSError, OverflowError):
        listener.close()
        raise
    return listener
