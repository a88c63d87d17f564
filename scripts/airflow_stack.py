"""A real Airflow on this machine, for the duration of a ``with`` block.

Api-server, scheduler, dag-processor and triggerer are separate processes, with LocalExecutor, SQLite and a new home::

    with AirflowStack(Path("example_dags"), env={"AIRFLOW_CONN_CRM_DEFAULT": "..."}) as stack:
        run = stack.api.run_dag("crm_lead_pipeline")
        print(run.states())

Everything listens on loopback only. The caller's own Airflow has no influence, and nothing stays running: the
components end with the process that started them, within a minute even if it is killed (on Linux). Start the stack from
a thread that lives as long as the stack: for Linux the end of that *thread* is the death of the parent.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from airflow_api import AirflowApi
from airflow_client.client import ApiException
from airflow_env import ReservedPort, base_env
from urllib3.exceptions import HTTPError

if TYPE_CHECKING:
    from typing_extensions import Self

# Without --skip-serve-logs, scheduler and triggerer open a log server on *all* interfaces. The api-server reads the log
# files itself, so no log server is needed.
COMPONENTS: dict[str, tuple[str, ...]] = {
    "api-server": ("api-server",),
    "scheduler": ("scheduler", "--skip-serve-logs"),
    "dag-processor": ("dag-processor",),
    "triggerer": ("triggerer", "--skip-serve-logs"),
}
# Asks Linux for SIGTERM when the parent dies (PR_SET_PDEATHSIG = 1), then becomes Airflow. This is a separate program,
# because a preexec_fn may deadlock in a process with threads.
LAUNCHER = """
import os, sys
if sys.platform == "linux":
    import ctypes, signal
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
    if os.getppid() != int(sys.argv[1]):
        sys.exit("the process that started Airflow is gone")
os.execv(sys.executable, [sys.executable, "-m", "airflow", *sys.argv[2:]])
"""


class AirflowStackError(Exception):
    """Airflow did not start, or a component died. The message has the end of its log."""


@dataclass
class Component:
    """One Airflow process and its log file."""

    name: str
    args: tuple[str, ...]
    log_path: Path
    process: subprocess.Popen[bytes]
    killed: bool = False  # by us, so its end is expected

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def tail(self, characters: int = 3000) -> str:
        text = self.log_path.read_text(errors="replace") if self.log_path.exists() else ""
        return f"--- end of {self.log_path}\n{text[-characters:]}"

    def signal_group(self, number: int) -> None:
        """Signal the process group of the component, which includes its children."""
        with contextlib.suppress(ProcessLookupError, PermissionError):  # it is gone; macOS reports EPERM for a zombie
            os.killpg(self.process.pid, number)


class AirflowStack:
    """Start, use and stop one Airflow.

    :param dags_folder: the value of ``[core] dags_folder``
    :param env: more variables for all components: connections, and settings that override :mod:`airflow_env`
    :param home: ``AIRFLOW_HOME``; a new temporary folder by default. It is kept, because it has the logs.
    :param python: the interpreter that has Airflow (and the provider) installed
    :param report: called with lines of progress
    """

    def __init__(
        self,
        dags_folder: Path,
        *,
        env: Mapping[str, str] | None = None,
        home: Path | None = None,
        python: str | Path = sys.executable,
        report: Callable[[str], None] = lambda _line: None,
    ) -> None:
        self.home = (home or Path(tempfile.mkdtemp(prefix="crm-airflow-"))).resolve()
        self.python = str(python)
        self._port = ReservedPort()
        self.url = f"http://127.0.0.1:{self._port.number}"
        self.env = {**base_env(self.home, dags_folder.resolve(), self._port.number, self.python), **(env or {})}
        self.api = AirflowApi(self.url, check=self.check)
        self.components: dict[str, Component] = {}
        self._orphaned: list[Component] = []  # killed, but their children live
        self._report = report

    @property
    def logs(self) -> Path:
        """The folder with one log file per task try. The output of the components is in ``home/components``."""
        return self.home / "logs"

    # -- start and stop

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop(patience=1)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, timeout: float = 300) -> None:
        """Create the database, start the four components and wait until all are healthy."""
        self.home.mkdir(parents=True, exist_ok=True)
        self.airflow("db", "migrate")
        self._report("database ready")
        for name, args in COMPONENTS.items():
            self.spawn(name, *args)
        self.until(self._is_healthy, timeout=timeout, every=0.25)
        self._report("all components healthy")

    def stop(self, patience: float = 2) -> None:
        """Stop everything, also the remains of a failed start: SIGTERM, SIGTERM again, SIGKILL.

        For Airflow the second SIGTERM means "do not wait for running work". Without it a triggerer may take 10 s to end
        and a scheduler over 30 s. The api-server stops last, because running tasks report their end to it.

        :param patience: seconds to wait after each SIGTERM
        """
        servers = [component for name, component in self.components.items() if name == "api-server"]
        others = [component for name, component in self.components.items() if name != "api-server"]
        for group in (others, servers):
            terminate(group, patience)
            terminate(group, patience)
            for component in group:
                component.signal_group(signal.SIGKILL)
                component.process.wait()
        for component in self._orphaned:
            component.signal_group(signal.SIGKILL)
        self._port.release()

    def _is_healthy(self) -> bool:
        try:
            return self.api.healthy()
        except (HTTPError, ApiException):  # the api-server is not listening yet
            return False

    def check(self) -> None:
        """Raise an error if a component has ended unexpectedly."""
        for component in self.components.values():
            if not component.running and not component.killed:
                code = component.process.returncode
                raise AirflowStackError(f"Airflow's {component.name} ended with code {code}\n{component.tail()}")

    def until(self, condition: Callable[[], bool], *, timeout: float, every: float = 0.1) -> None:
        """Wait for a condition while all components run.

        :raises AirflowStackError: a component ended, or the wait took longer than ``timeout`` seconds
        """
        deadline = time.monotonic() + timeout
        while not condition():
            self.check()
            if time.monotonic() > deadline:
                raise AirflowStackError(f"the condition did not hold within {timeout:g} s\n{self.tails()}")
            time.sleep(every)

    def tails(self) -> str:
        return "\n".join(component.tail() for component in self.components.values())

    # -- single components

    def spawn(self, name: str, *args: str, env: Mapping[str, str] | None = None) -> Component:
        """Start ``airflow ARGS`` in the background under a new name, for example a second triggerer.

        :param env: environment variables beside those of the other components
        """
        folder = self.home / "components"
        folder.mkdir(exist_ok=True)
        log_path = folder / f"{name}.log"
        with log_path.open("ab") as output:
            process = subprocess.Popen(
                [self.python, "-c", LAUNCHER, str(os.getpid()), *args],
                env={**self.env, **(env or {})},
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches only this process; children get signals as a group
            )
        self.components[name] = Component(name, args, log_path, process)
        return self.components[name]

    def kill(self, name: str, number: int = signal.SIGKILL, *, with_children: bool = True) -> None:
        """Send a signal to a component and wait for its end.

        :param with_children: True is like the end of its container; False leaves the running tasks of a scheduler alive
        """
        component = self.components[name]
        component.killed = True
        if with_children:
            component.signal_group(number)
        else:
            self._orphaned.append(component)
            component.process.send_signal(number)
        component.process.wait(timeout=60)

    def restart(self, name: str) -> Component:
        """Start a killed component again."""
        return self.spawn(name, *self.components[name].args)

    def airflow(self, *args: str, timeout: float = 300) -> str:
        """Run one ``airflow`` command in this environment and return its output (3 s each: prefer :attr:`api`)."""
        command = [self.python, "-m", "airflow", *args]
        done = subprocess.run(
            command, env=self.env, cwd=self.home, text=True, timeout=timeout, check=False,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        if done.returncode:
            end = done.stdout[-3000:]
            raise AirflowStackError(f"airflow {' '.join(args)} ended with code {done.returncode}\n{end}")
        return done.stdout


def terminate(components: list[Component], patience: float) -> None:
    """Send SIGTERM to the running components and wait for their end, at most ``patience`` seconds."""
    deadline = time.monotonic() + patience
    for component in components:
        component.killed = True
        if component.running:
            component.process.terminate()
    for component in components:
        with contextlib.suppress(subprocess.TimeoutExpired):
            component.process.wait(max(0.1, deadline - time.monotonic()))
