"""``make demo``: each task of the lead pipeline ends as in the README, on a real Airflow."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.system


def readme_rows() -> set[str]:
    """The rows of the table in the README."""
    block = re.search(r"<!-- demo:begin -->\s*```text\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    assert block, "README.md shows no outcome table"
    return {" ".join(line.split()) for line in block[1].splitlines() if line.strip() and not line.startswith("-")}


def test_demo_ends_as_in_the_readme() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "demo.py")], capture_output=True, text=True, timeout=900, check=False
    )
    printed = {" ".join(line.split()) for line in done.stdout.splitlines()}
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert readme_rows() <= printed
    assert "Every task ended as expected." in printed
