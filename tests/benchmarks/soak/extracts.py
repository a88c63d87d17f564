"""Streams of extracts: each file has each record once, and no record that existed all the time is missing."""

from __future__ import annotations

import json
import random
import threading
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from .findings import Findings
from .loads import MOST_TRIES, PAUSE
from .processes import DEAD, Remote

BETWEEN = (2.0, 8.0)
"""Seconds between two extracts."""


class ExtractStream(threading.Thread):
    """Runs one extract after the other.

    :param deleting: lock against deletions, held during two of three extracts, so that no record moves to another page
    """

    def __init__(
        self, crms: Remote, worker: Remote, account: int, name: str, seed: int, folder: Path, findings: Findings,
        *, deleting: threading.Lock,
    ) -> None:  # fmt: skip
        super().__init__(daemon=True, name=f"extracts {name}")
        self._crms, self._worker, self._account, self._findings = crms, worker, account, findings
        self._folder = folder / f"extracts-{name}"
        self._folder.mkdir()
        self._random, self._deleting = random.Random(f"{seed} extracts {name}"), deleting
        self.ended = threading.Event()

    def run(self) -> None:
        try:
            number = 0
            while not self.ended.wait(self._random.uniform(*BETWEEN)):
                number += 1
                is_held = self._random.random() < 0.67
                with self._deleting if is_held else nullcontext():
                    self._extract(number, self._random.choice(["contacts", "deals"]), is_held=is_held)
        except Exception as broken:
            self._findings.require(False, f"{self.name} crashed: {broken!r}")
            raise

    def _extract(self, number: int, listing: str, *, is_held: bool) -> None:
        target = self._folder / f"{number}.jsonl"
        before = set(self._crms("ids", self._account, listing))
        result = self._tries(listing, target, number)
        if result is None:
            return
        stayed = before & set(self._crms("ids", self._account, listing))
        found = [json.loads(line)["id"] for line in target.read_text("utf-8").splitlines()]
        missing = stayed - set(found)
        where, require = f"{self.name}, extract {number} of {listing}", self._findings.require
        require(len(found) == len(set(found)), f"{where}: a record is in the file twice")
        require(len(found) == result["records"], f"{where}: the result says {result['records']}, the file {len(found)}")
        if is_held:
            require(not missing, f"{where}: {len(missing)} records are missing, and none was deleted meanwhile")
        elif missing:
            noticed = "reported as changed" if result["changed_during_read"] else "not noticed"
            self._findings.count(f"extracts with missing records after deletions, {noticed}")
        self._findings.count(f"extracts of {listing}")
        self._findings.count("records extracted", len(found))
        target.unlink()
        left = [path.name for path in self._folder.iterdir()]
        require(not left, f"{where}: files are left: {left}")
        for name in left:  # reported once
            (self._folder / name).unlink()

    def _tries(self, listing: str, target: Path, number: int) -> dict[str, Any] | None:
        for _ in range(MOST_TRIES):
            try:
                result: dict[str, Any] = self._worker("extract", self._account, listing, str(target), f"{number}")
            except DEAD:
                self._findings.count("extracts resumed after SIGKILL")
                continue
            if "error" not in result:
                return result
            self._findings.count(f"extracts stopped by {result['error']}")
            time.sleep(PAUSE)
        self._findings.require(False, f"{self.name}, extract {number}: not done after {MOST_TRIES} tries")
        return None
