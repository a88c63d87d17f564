"""``python -m crm_provider.sandbox`` as a process: output, options and exit."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from crm_provider.sandbox import MAGIC_EMAILS, Sandbox
from crm_provider.sandbox.__main__ import main

COMMAND = [sys.executable, "-m", "crm_provider.sandbox"]


@contextmanager
def running(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process and its output until it is ready."""
    process = subprocess.Popen(
        [*COMMAND, "--port", "0", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    watchdog = threading.Timer(300, process.kill)
    watchdog.start()
    try:
        assert process.stdout
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("Stop with"):
                break
        yield process, "".join(lines)
    finally:
        watchdog.cancel()
        process.kill()
        process.communicate()


def test_state_file_survives_a_kill(tmp_path: Path) -> None:
    state, mine = tmp_path / "crm.json", {"x-api-key": "sandbox-key"}
    arguments = ("--no-limit", "--seed", "empty", "--state", str(state))
    with running(*arguments) as (process, printed):
        base = printed.split()[2]
        done = requests.post(f"{base}/contacts", json={"email": "kept@example.com"}, headers=mine, timeout=60)
        assert done.status_code == 201
        process.kill()
        process.communicate(timeout=60)
    with running(*arguments) as (_, printed):
        found = requests.get(f"{printed.split()[2]}/contacts/kept@example.com", headers=mine, timeout=60)
    assert (found.status_code, found.json()["data"]["id"]) == (200, done.json()["data"]["id"])
    assert [path.name for path in tmp_path.iterdir()] == ["crm.json"]
    assert state.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(("content", "text"), [("{", "cannot be read"), ("[]", "not contain the state of a sandbox")])
def test_invalid_state_file_is_named(tmp_path: Path, content: str, text: str, failure: Callable[..., str]) -> None:
    (tmp_path / "crm.json").write_text(content)
    errors = failure("--port", "0", "--state", str(tmp_path / "crm.json"))
    assert text in errors
    assert "crm.json" in errors


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_sandbox_prints_its_connection_and_stops_cleanly(how: signal.Signals) -> None:
    with running("--no-limit", "--api-key", "k'1") as (process, printed):
        line = re.search(r"^  export AIRFLOW_CONN_CRM_DEFAULT=(.*)$", printed, re.MULTILINE)
        assert line
        connection = json.loads(shlex.split(line[1])[0])
        assert connection["conn_type"] == "crm"
        assert connection["password"] == "k'1"
        assert connection["host"] in printed.splitlines()[0]
        assert all(row.email in printed for row in MAGIC_EMAILS)
        response = requests.get(f"{connection['host']}/contacts", headers={"x-api-key": "k'1"}, timeout=60)
        assert response.json()["data"]["total"] == 11
        process.send_signal(how)
        rest, errors = process.communicate(timeout=60)
        assert (process.returncode, rest, errors) == (0, "", "")


def test_command_line_options_configure_the_sandbox() -> None:
    options = ["--seed", "contacts:3", "--rate", "2.5", "--burst", "4", "--envelope", "v2", "--success", "flat"]
    allowed = ["--allowed-host", "crm-sandbox", "--allowed-host", "other:9000"]
    with running(*options, *allowed, "--membership-delay", "9", "--no-magic") as (_, printed):
        assert "2.5 requests/s, burst 4" in printed
        assert "sandbox.test" not in printed
        root = re.search(r"http://\S+?(?=/v2)", printed)
        assert root
        shown = requests.get(f"{root[0]}/__sandbox__/settings", headers={"host": "crm-sandbox"}, timeout=60).json()
    expected = {"seed": "contacts:3", "rate": 2.5, "burst": 4, "envelope": "v2", "success": "flat"}
    assert {**shown, **expected, "membership_delay": 9, "magic": False} == shown


@pytest.fixture
def failure(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The error output for invalid arguments."""

    def run(*arguments: str) -> str:
        monkeypatch.setattr(signal, "signal", lambda *_: None)
        assert main(arguments) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        return printed.err

    return run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host", "0.0.0.0"], "loopback only"),
        (["--seed", "demmo"], "did you mean 'demo'"),
        (["--allowed-host", "http://a"], "not a host name"),
        (["--seed", "no-such-file.json"], "cannot be read"),
        (["--rate", "0"], "None for no limit"),
        (["--port", "99999"], "port must be 0-65535"),
    ],
)
def test_invalid_argument_is_reported_in_one_line(
    arguments: list[str], message: str, failure: Callable[..., str]
) -> None:
    errors = failure("--port", "0", *arguments)
    assert message in errors
    assert errors.count("\n") == 1


def test_port_in_use_is_reported_in_one_line(crm_sandbox: Sandbox, failure: Callable[..., str]) -> None:
    port = crm_sandbox.root_url.rpartition(":")[2]
    errors = failure("--port", port)
    assert errors == (
        f"crm_provider.sandbox: port {port} on 127.0.0.1 is in use: "
        "choose another one, or use --port 0 for a free one\n"
    )
