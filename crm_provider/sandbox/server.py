"""The sandbox for Python: a server in a thread, with its state and controls at hand."""

from __future__ import annotations

import ipaddress
import json
import os
import socket
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any

from crm_provider.sandbox.clock import Clock
from crm_provider.sandbox.faultbook import FaultStatus
from crm_provider.sandbox.faults import Fault
from crm_provider.sandbox.gateway import Gateway
from crm_provider.sandbox.journal import Counters, JournalEntry
from crm_provider.sandbox.records import JsonObject
from crm_provider.sandbox.routes import BASE_PATH
from crm_provider.sandbox.seeds import snapshot
from crm_provider.sandbox.settings import Settings
from crm_provider.sandbox.state_file import StateFile
from crm_provider.sandbox.store import Store

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from crm_provider.sandbox.serving import ServerThread
    from crm_provider.sandbox.settings import SettingsFields


class Sandbox:
    """A stand-in for the API on a loopback port of this machine.

    Example::

        with Sandbox(seed="demo", rate=5, burst=2, envelope="v1") as sandbox:
            sandbox.add_fault(effect="lost", method="POST", path="/contacts", count=1)
            requests.get(f"{sandbox.url}/contacts/ada@example.com", headers={"x-api-key": sandbox.api_key})
            assert sandbox.counters().total == 1

    :param host: a loopback address; anything else is refused
    :param port: 0 takes a free one
    :param clock: the time that pacing, delays and times to live go by; see :class:`~..clock.ManualClock`
    :param state: file that keeps what the sandbox holds, for the next one: see :class:`~..state_file.StateFile`. It
        goes before the seed. Settings, faults and the journal are not in it
    :param settings: the fields of :class:`~crm_provider.sandbox.settings.Settings`
    :raises ValueError: a setting, the seed, the state or the host is not possible
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        clock: Clock | None = None,
        state: str | os.PathLike[str] | None = None,
        **settings: Unpack[SettingsFields],
    ) -> None:
        self._host = loopback_address(host)
        self._port = port
        chosen, file = Settings(**settings), None if state is None else StateFile(state)
        if file is not None:
            chosen = replace(chosen, seed=file.seed(chosen.seed))
        self._gateway = Gateway(chosen, clock=clock, keep=None if file is None else file.write)
        self._server: ServerThread | None = None

    # -- life ------------------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Start the server; it answers when this returns.

        :raises OSError: the port is in use
        """
        # imported here, because a test suite that only loads the pytest plugin should not load a web framework
        from crm_provider.sandbox.serving import ServerThread

        if self._server is not None:
            raise RuntimeError("the sandbox is running already")
        listener = _listen(self._host, self._port)
        self._port = listener.getsockname()[1]
        server = ServerThread(self._gateway, listener)
        server.start()
        self._server = server
        return self

    def stop(self) -> None:
        """Stop the server, if it runs; the state can still be looked at."""
        if self._server is not None:
            self._server.stop()
            self._server = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # -- how to reach it -------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """The base URL, with ``/v2``."""
        return f"{self.root_url}{BASE_PATH}"

    @property
    def root_url(self) -> str:
        """Scheme, host and port: the admin routes are under ``/__sandbox__`` from here.

        :raises RuntimeError: not started yet, so there is no port
        """
        if not self._port:
            raise RuntimeError("the sandbox has no port before it is started")
        return f"http://[{self._host}]:{self._port}" if ":" in self._host else f"http://{self._host}:{self._port}"

    @property
    def running(self) -> bool:
        """Whether the server answers."""
        return self._server is not None and self._server.running

    @property
    def api_key(self) -> str | None:
        """The key that is accepted now, None if every key is refused."""
        return self.settings.api_key

    def connection_json(self, **extra: Any) -> str:
        """The Airflow connection to this sandbox: a value for ``AIRFLOW_CONN_CRM_DEFAULT``.

        :param extra: the connection's extras, for example ``timeout=2``
        """
        return json.dumps({"conn_type": "crm", "host": self.url, "password": self.api_key, "extra": extra})

    # -- state and settings ----------------------------------------------------------------------------------

    @property
    def store(self) -> Store:
        """The CRM's state, to look at and to change."""
        return self._gateway.store

    @property
    def settings(self) -> Settings:
        """The settings in use."""
        return self._gateway.settings

    def configure(self, **changes: Unpack[SettingsFields]) -> Settings:
        """Change settings until the next reset, for example ``configure(api_key=None)``: the key is revoked.

        :raises ValueError: a value is not possible, or the field (seed, journal_size) can only be changed by a reset
        """
        return self._gateway.configure(**changes)

    def reset(self, settings: Settings | None = None) -> None:
        """Start anew: the seed's state and the settings of the start; no faults, empty journal, full bucket.

        :param settings: settings to start with from now on; None keeps those of the last start
        """
        self._gateway.reset(settings)

    def snapshot(self) -> JsonObject:
        """The state as a seed document: ``Settings(seed=sandbox.snapshot())`` brings it back."""
        return snapshot(self.store)

    # -- faults ----------------------------------------------------------------------------------------------

    def add_fault(self, fault: Fault | None = None, /, **fields: Any) -> Fault:
        """Add a rule that makes calls go wrong.

        :param fault: the rule; or give the fields of :class:`~crm_provider.sandbox.faults.Fault`
        :return: the rule with its name
        :raises ValueError: the rule makes no sense; the message names the nearest valid choice
        """
        if fault is not None and fields:
            raise TypeError("give a Fault or its fields, not both")
        with self._gateway.lock:
            return self._gateway.faults.add(fault or Fault(**fields))

    def remove_fault(self, name: str) -> bool:
        """Take a rule out; False if there is none with this name."""
        with self._gateway.lock:
            return self._gateway.faults.remove(name)

    def clear_faults(self) -> None:
        """Take all rules out; magic addresses stay as they are."""
        with self._gateway.lock:
            self._gateway.faults.clear()

    def faults(self) -> list[FaultStatus]:
        """The rules, and how often each struck."""
        with self._gateway.lock:
            return self._gateway.faults.statuses()

    # -- what it saw -----------------------------------------------------------------------------------------

    def journal(
        self,
        *,
        since: int = 0,
        method: str | None = None,
        route: str | None = None,
        status: int | None = None,
        email: str | None = None,
    ) -> list[JournalEntry]:
        """The calls that fit all of these, oldest first.

        :param since: only calls with a greater ``seq``
        :param route: path with placeholders, for example ``/contacts/{email}``
        :param email: only calls about this contact
        """
        with self._gateway.lock:
            return self._gateway.journal.entries(
                since=since, method=method, route=route, status=status, email=self._gateway.fingerprints.of(email)
            )

    def counters(self) -> Counters:
        """Totals since the start or reset."""
        with self._gateway.lock:
            return self._gateway.journal.counters()


def loopback_address(host: str) -> str:
    """The address to listen on.

    :raises ValueError: other machines could reach it; with the reason
    """
    try:
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:  # another name: it may mean another address tomorrow
        address = None
    if address is None or not address.is_loopback:
        raise ValueError(
            f"the sandbox listens on loopback only, not on {host!r}: its admin routes have no password and show all "
            "it holds. Use 127.0.0.1, ::1 or localhost"
        )
    return str(address)


def _listen(host: str, port: int) -> socket.socket:
    # The protocol is named, because asyncio switches TCP_NODELAY on only where it is: without that each answer on a
    # kept connection waits 40 ms for an acknowledgement.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if (
            os.name == "posix"
        ):  # a port of a sandbox that has just stopped is free again; elsewhere it means something else
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen()
    except OSError:
        listener.close()
        raise
    return listener
