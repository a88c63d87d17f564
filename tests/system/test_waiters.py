"""Many deferred sensors on a triggerer with PostgreSQL: what ``bench_waiters.py`` measures, with a few hundred."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("airflow.models.task_state_store", reason="it writes the rows of Airflow 3.3")

ROOT = Path(__file__).resolve().parents[2]
WAITERS = 200
BEGUN = "# Page\n\n<!-- measured: waiters -->\n\nold\n\n<!-- measured: end -->\n"


def test_waits_of_a_killed_triggerer_end_once_in_another(tmp_path: Path) -> None:
    """The command fails if one does not, or if the killed triggerer had none."""
    page = tmp_path / "page.md"
    page.write_text(BEGUN, encoding="utf-8")
    command = [sys.executable, str(ROOT / "tests/benchmarks/bench_waiters.py"), "--waiters", str(WAITERS)]
    done = subprocess.run(
        [*command, "--interval", "4", "--write", str(page)], capture_output=True, text=True, timeout=1800, check=False
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    report = page.read_text("utf-8")
    assert "old" not in report
    assert f"| ended exactly once | {WAITERS} | {WAITERS} |" in report
    killed = re.search(
        r"of which one had (\d+) of the 200 and was killed \(SIGKILL\): 200 waits ended exactly once", report
    )
    assert killed and 0 < int(killed[1]) < WAITERS, report
