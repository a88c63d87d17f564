"""A short run of the soak command without findings."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BEGUN = "# Page\n\n<!-- measured: soak -->\n\nold\n\n<!-- measured: end -->\n\nrest\n"


@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")
def test_short_soak_finds_nothing_wrong(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(BEGUN, encoding="utf-8")
    soak = [sys.executable, str(ROOT / "tests/benchmarks/bench_soak.py")]
    command = [*soak, "--minutes", "0.4", "--seed", "18", "--write", str(page)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    report = page.read_text("utf-8")
    assert "Nothing wrong was found." in report
    assert "with seed 18" in report and "old" not in report
    counts = dict(line.strip("| ").split(" | ", 1) for line in report.splitlines() if line.startswith("| "))
    for work in ("loads: contacts", "extracts of contacts", "sensors that fired", "newcomers reported by watches"):
        assert int(counts[work].replace(",", "")) > 0, report
