"""A load whose process is killed at random moments, again and again: nothing is lost, and little is sent twice."""

from __future__ import annotations

import ast
import csv
import random
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet
import pytest

from crm_provider.load.progress import SENT_ROWS
from crm_provider.load.workers import LEAST
from crm_provider.sandbox import Sandbox

from .killable import BURST, RATE

ROWS = 400
KILLS = 4
PROGRAM = Path(__file__).with_name("killable.py")
BAD = {n for n in range(1, ROWS + 1) if n % 57 == 0}


def source(folder: Path) -> None:
    with (folder / "people.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["email", "name", "phone"])
        # what the sandbox refuses: a phone number in words
        writer.writerows(
            [f"p{n}@x.org", f"P{n}", "by pigeon" if n in BAD else "+5531999999999"] for n in range(1, ROWS + 1)
        )


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_killed_and_resumed(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    source(tmp_path)
    with Sandbox(seed="empty", rate=RATE, burst=BURST) as sandbox:
        command = [sys.executable, str(PROGRAM), sandbox.url, str(tmp_path)]
        for _ in range(KILLS):
            calls = sandbox.counters().total
            process = subprocess.Popen(command, stderr=subprocess.PIPE)
            wanted = calls + rng.randint(1, ROWS // (KILLS + 1))
            while sandbox.counters().total < wanted and process.poll() is None:
                time.sleep(0.005)
            time.sleep(rng.random() * 0.05)
            process.kill()
            process.communicate()
        last = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        assert last.returncode == 0, last.stderr
        summary = ast.literal_eval((tmp_path / "summary").read_text())
        assert summary["resumed_at"] > 0
        assert summary["rows"] == ROWS
        assert summary["rejected"] == len(BAD)
        assert summary["created"] + summary["updated"] + summary["unchanged"] == ROWS - len(BAD)
        with (tmp_path / "rejects.csv").open(newline="") as file:
            rejected = [int(line["_row"]) for line in csv.DictReader(file)]
        assert sorted(rejected) == sorted(BAD)
        ended = pyarrow.parquet.read_table(tmp_path / "outcomes.parquet").to_pylist()
        assert sorted((row["row_number"], row["name"], row["outcome"] == "rejected") for row in ended) == [
            (n, f"P{n}", n in BAD) for n in range(1, ROWS + 1)
        ]
        wanted_contacts = {f"p{n}@x.org": f"P{n}" for n in range(1, ROWS + 1) if n not in BAD}
        assert {c.email: c.attributes["name"] for c in sandbox.store.contacts.values()} == wanted_contacts
        # rows that were not yet in the books at each kill, and those on their way, by two calls each
        most = KILLS * 2 * (SENT_ROWS + LEAST)
        seen = sandbox.counters()
        writes = sum(count for call, count in seen.calls.items() if not call.startswith("GET"))
        assert writes - ROWS <= most + seen.throttled
        assert seen.total - writes <= ROWS // 2, "a sample of the rows is looked up, not all of them at each try"
