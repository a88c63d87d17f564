"""Messages of a measured process to its parent: one line of JSON per event."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any


def report(event: str, **facts: Any) -> None:
    """Report an event, in the child."""
    print(json.dumps({"event": event, **facts}), flush=True)


def next_line(child: subprocess.Popen[str], expected: str) -> dict[str, Any]:
    """The next message of the child. Its other output comes from Airflow."""
    assert child.stdout
    for line in child.stdout:
        if line.startswith("{"):
            reported: dict[str, Any] = json.loads(line)
            if reported.pop("event", None) == expected:
                return reported
    sys.exit(f"the measured process ended before it had {expected!r}")
