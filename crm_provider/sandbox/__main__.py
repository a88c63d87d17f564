"""``python -m crm_provider.sandbox``: a sandbox for an Airflow connection, until Ctrl-C."""

from __future__ import annotations

import argparse
import errno
import shlex
import signal
import sys
import threading
from collections.abc import Sequence
from typing import get_args

from crm_provider.sandbox.fault_rules import MAGIC_EMAILS
from crm_provider.sandbox.server import Sandbox
from crm_provider.sandbox.settings import ADMIN_PATH, DEFAULT_API_KEY, Envelope, SuccessShape

USAGE_ERROR = 2
_CHECK_EVERY = 1.0
"""Seconds between checks whether the server is still alive."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a sandbox until SIGINT or SIGTERM.

    :param arguments: the command line without the program's name; by default this process's
    :return: the exit code: 0 after a signal, 1 if the server died, 2 if it could not start with these options
    """
    options = _parser().parse_args(arguments)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        sandbox = _sandbox(options).start()
    except (ValueError, OSError, OverflowError) as error:
        sys.stderr.write(f"crm_provider.sandbox: {_reason(error, options)}\n")
        return USAGE_ERROR
    sys.stdout.write(f"{_welcome(sandbox)}\n")
    sys.stdout.flush()
    while sandbox.running and not stop.wait(_CHECK_EVERY):
        pass
    alive = sandbox.running
    sandbox.stop()
    return 0 if alive else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m crm_provider.sandbox",
        description="A local, stateful stand-in for the CRM's API on a loopback port of this machine.",
    )
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="a loopback address (default: %(default)s)")
    add("--port", type=int, default=8000, help="0 chooses a free port (default: %(default)s)")
    add(
        "--allowed-host",
        action="append",
        default=[],
        metavar="NAME[:PORT]",
        help="serve requests to this host name too, for example behind a proxy; can be repeated",
    )
    add(
        "--seed",
        default="demo",
        help="empty, demo, contacts:N, deals:N or a path ending in .json (default: %(default)s)",
    )
    add("--state", metavar="FILE", help="keep the data in this file, and continue with it instead of --seed")
    add("--rate", type=float, default=5.0, help="requests per second (default: %(default)s)")
    add("--burst", type=int, default=2, help="requests at once (default: %(default)s)")
    add("--no-limit", action="store_true", help="no rate limit")
    add("--envelope", choices=get_args(Envelope), default="v1", help="format of errors (default: %(default)s)")
    add("--success", choices=get_args(SuccessShape), default="wrapped", help="format of successes")
    add("--api-key", default=DEFAULT_API_KEY, help="the key that is accepted (default: %(default)s)")
    add("--membership-delay", type=float, default=0.0, help="seconds until a new list membership shows on a contact")
    add("--no-magic", action="store_true", help="no special behaviour for the addresses at sandbox.test")
    return parser


def _sandbox(options: argparse.Namespace) -> Sandbox:
    return Sandbox(
        host=options.host,
        port=options.port,
        allowed_hosts=options.allowed_host,
        seed=options.seed,
        state=options.state,
        rate=None if options.no_limit else options.rate,
        burst=options.burst,
        envelope=options.envelope,
        success=options.success,
        api_key=options.api_key,
        membership_delay=options.membership_delay,
        magic=not options.no_magic,
    )


def _reason(error: Exception, options: argparse.Namespace) -> str:
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return f"port {options.port} on {options.host} is in use: choose another one, or use --port 0 for a free one"
    return str(error)


def _welcome(sandbox: Sandbox) -> str:
    limit = f"{sandbox.settings.rate:g} requests/s, burst {sandbox.settings.burst}" if sandbox.settings.rate else "none"
    lines = [
        f"CRM sandbox    {sandbox.url}",
        f"API key        {sandbox.api_key}",
        f"Rate limit     {limit}",
        f"Admin routes   {sandbox.root_url}{ADMIN_PATH} (OpenAPI: {ADMIN_PATH}/openapi.json)",
        "",
        "Airflow connection, ready to paste:",
        f"  export AIRFLOW_CONN_CRM_DEFAULT={shlex.quote(sandbox.connection_json())}",
    ]
    if sandbox.settings.magic:
        lines += ["", "Magic emails (+tags are allowed):"]
        lines += [f"  {row.email:24} {row.does}" for row in MAGIC_EMAILS]
    return "\n".join([*lines, "", "Stop with Ctrl-C."])


if __name__ == "__main__":
    sys.exit(main())
