"""Running programs: quietly with a line per step, or in the foreground as the job itself."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).resolve().parents[2]

# PYTHONDONTWRITEBYTECODE: without byte code every Airflow process starts twice as slowly.
# The others would mix another environment's packages in.
UNWANTED = ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "PYTHONHOME", "VIRTUAL_ENV")

# pytest's tests in several processes: each has its own Airflow, so more than a few cost more than they bring
SIDE_BY_SIDE = ("--numprocesses=auto", "--maxprocesses=4", "--dist=worksteal")


class StepFailed(Exception):
    """A step of the set-up did not work; the text says what to do."""


def environment() -> dict[str, str]:
    """The environment for everything that is started from here."""
    return {name: value for name, value in os.environ.items() if name not in UNWANTED}


def step(title: str, command: Sequence[str | Path], *, advice: str) -> str:
    """Run a program quietly, with one line that says what and how long, and return its output.

    :param advice: what to do if it fails; its output is shown then
    :raises StepFailed: it failed
    """
    print(f"{title} ... ", end="", flush=True)
    start = time.monotonic()
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    print(f"{'failed after ' if done.returncode else ''}{time.monotonic() - start:.1f} s", flush=True)
    if done.returncode:
        raise StepFailed(f"{done.stdout.rstrip()}\n\n{title} failed. {advice}")
    return done.stdout


def run(command: Sequence[str | Path], *, env: dict[str, str]) -> int:
    """Run a job in the foreground and return its exit code (128 + the signal's number if one ended it).

    :raises KeyboardInterrupt: Ctrl-C was pressed, and the job, which got it too, did not take it for its normal end
    """
    process = subprocess.Popen(command, cwd=ROOT, env=env)
    with _signals_left_to(process) as received:
        code = process.wait()
    if signal.SIGINT in received and code:
        raise KeyboardInterrupt
    if signal.SIGTERM in received:
        raise SystemExit(128 + signal.SIGTERM)
    return 128 - code if code < 0 else code


@contextmanager
def _signals_left_to(process: subprocess.Popen[bytes]) -> Iterator[set[int]]:
    """The job decides what a signal means. Ctrl-C reaches it from the terminal, SIGTERM has to be passed on."""
    received: set[int] = set()

    def note(number: int, _frame: FrameType | None) -> None:
        received.add(number)
        if number == signal.SIGTERM:
            process.terminate()

    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
