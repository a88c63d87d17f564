"""Streams of loads. Each is the only writer of its contacts and deals, and compares each load with the model."""

from __future__ import annotations

import csv
import json
import random
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from crm_provider.sandbox import ids

from .crms import STAGES
from .findings import Findings
from .model import Ended
from .processes import DEAD, Remote

POPULATION = 120
"""The most contacts of a stream: few, so that listings are short and many rows have existing contacts."""

MOST_TRIES = 300
PAUSE = 1.0
"""Seconds between two tries."""

TITLES = {"contacts": "contacts", "create": "new deals", "move": "deals to other stages", "delete": "deletions"}

PLANS = ("upsert", "upsert", "create", "move")


class LoadStream(threading.Thread):
    """Runs one load after the other in one worker, with its own contacts.

    :param rate: calls per second of the account; loads are smaller at a low rate
    :param keeps_state: use a state file, and no deletions, which a state file cannot know
    :param deleting: lock that is held while contacts are deleted
    """

    def __init__(
        self, crms: Remote, worker: Remote, account: int, name: str, seed: int, folder: Path, findings: Findings,
        *, rate: float, keeps_state: bool, deleting: threading.Lock,
    ) -> None:  # fmt: skip
        super().__init__(daemon=True, name=f"loads {name}")
        self._population = min(POPULATION, int(10 * rate))
        self._crms, self._worker, self._account, self._findings = crms, worker, account, findings
        self._prefix, self._folder = f"{name}-", folder / name
        self._folder.mkdir()
        self._random = random.Random(f"{seed} {name}")
        self._keeps_state, self._deleting = keeps_state, deleting
        self._number = 0
        self.ended = threading.Event()

    def run(self) -> None:
        try:
            while not self.ended.is_set():
                self._next(self._random.choice(PLANS if self._keeps_state else (*PLANS, "delete")))
            self._next("all")
        except Exception as broken:
            self._findings.require(False, f"{self.name} crashed: {broken!r}")
            raise

    # -- one load ----------------------------------------------------------------------------------------------

    def _next(self, plan: str) -> None:
        self._number += 1
        before = self._contacts()
        if plan in ("upsert", "all"):
            self._upsert(before, everybody=plan == "all")
        elif plan == "delete":
            with self._deleting:
                self._delete_some(before)
        else:
            self._deals(plan, before)

    def _upsert(self, before: Mapping[str, Any], *, everybody: bool) -> None:
        rows = [self._row(before, n) for n in range(self._population)]
        if not everybody:
            rows = self._random.sample(rows, self._random.randint(10, self._population * 2 // 3))
            rows += [{**rows[0], "city": "twice"}]
            rows[self._random.randrange(len(rows) - 1)]["email"] = "nobody"
        given: dict[str, Any] = {"mode": "upsert"}
        list_id = None
        if self._keeps_state:
            given["state_path"] = str(self._folder / "state")
        elif self._random.random() < 0.3:
            list_id = ids.list_id("Loaded")
            given["list_ids"] = [list_id]
        ended = self._play("contacts", "contacts", rows, given, before, list_id)
        if everybody and ended is not None:
            rejected = sum(outcome == "rejected" for outcome in ended.outcomes.values())
            self._findings.require(not rejected, f"{self.name}: {rejected} rows of the last load, without faults")

    def _row(self, before: Mapping[str, Any], number: int) -> dict[str, Any]:
        email = f"{self._prefix}{number}@soak.example"
        if email in before and self._random.random() < 0.4:
            attributes = before[email]["attributes"]
            return {"email": email, **{name: attributes.get(name, "x") for name in ("name", "city", "score")}}
        return {
            "email": email,
            "name": f"Name {number}",
            "city": self._random.choice(["Lisbon", "Recife", "Bergen"]),
            "score": str(self._random.randrange(100)),
        }

    def _deals(self, plan: str, contacts: Mapping[str, Any]) -> None:
        deals = self._crms("deals", self._account, self._prefix)
        stages = [ids.stage_id("Sales", name) for name in STAGES]
        without = [email for email in contacts if email not in deals]
        if plan == "create" and len(without) < 10 and self._keeps_state:
            with self._deleting:
                self._crms("delete_deals", self._account, self._prefix)
            deals, without = {}, list(contacts)
        if plan == "create":
            emails = self._random.sample(without, min(len(without), self._random.randint(5, 40)))
            rows = [
                {"email": email, "contact_id": contacts[email]["id"], "stage": self._random.choice(stages),
                 "pb_name": f"Deal {self._number}"}
                for email in emails
            ]  # fmt: skip
            mapping: dict[str, Any] = {"contact_id": "contact_id", "stage_id": "stage", "pb_name": "pb_name",
                                       "pipeline_id": {"constant": ids.pipeline_id("Sales")}}  # fmt: skip
        else:
            emails = self._random.sample(list(deals), min(len(deals), self._random.randint(5, 40)))
            rows = [
                {"email": email, "deal_id": deals[email]["id"], "stage": self._random.choice(stages)}
                for email in emails
            ]
            mapping = {"deal_id": "deal_id", "stage_id": "stage"}
        if rows:
            self._play(plan, "deals", rows, {"mode": plan, "mapping": mapping}, deals)

    def _delete_some(self, before: Mapping[str, Any]) -> None:
        numbers = self._random.sample(range(self._population), self._random.randint(3, 15))
        rows = [{"email": f"{self._prefix}{number}@soak.example"} for number in numbers]
        self._play("delete", "deletions", rows, {"max_deletes": len(rows), "every_spelling": False}, before)

    # -- tries -------------------------------------------------------------------------------------------------

    def _play(
        self, what: str, kind: str, rows: list[dict[str, Any]], given: dict[str, Any], before: Mapping[str, Any],
        list_id: str | None = None,
    ) -> Ended | None:  # fmt: skip
        """Try until the load is done, and compare it with the model."""
        files = {name: str(self._folder / f"{self._number}.{name}") for name in ("rejects.jsonl", "outcomes.jsonl")}
        source, checkpoint = self._folder / f"{self._number}.csv", self._folder / f"{self._number}.checkpoint"
        with source.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        given |= {"source": str(source), "checkpoint_path": str(checkpoint), "max_rejects": "100%",
                  "rejects_path": files["rejects.jsonl"], "outcomes_path": files["outcomes.jsonl"]}  # fmt: skip
        faults = self._faults()
        result, tries = self._tries(kind, given)
        if result is None:
            return None
        after = self._crms("deals", self._account, self._prefix) if kind == "deals" else self._contacts()
        outcomes = self._read(files, result, len(rows))
        ended = Ended(what, rows, outcomes, before, after, list_id, is_clear=tries == 1 and self._faults() == faults)
        for wrong in ended.wrong():
            self._findings.require(False, f"{self.name}, load {self._number} ({what}, {tries} tries): {wrong}")
        self._findings.count(f"loads: {TITLES[what]}")
        self._findings.count("rows", len(rows))
        self._findings.count("tries of loads", tries)
        self._findings.require(not checkpoint.exists(), f"{self.name}: a checkpoint is left of a load that is done")
        if tries == 1:
            self._findings.count("loads without a fault or a kill", faults == self._faults())
        for path in (source, *map(Path, files.values()), Path(f"{files['rejects.jsonl']}.report.md")):
            path.unlink(missing_ok=True)
        left = [path.name for path in self._folder.iterdir() if path.name not in ("state", "state.lock")]
        self._findings.require(not left, f"{self.name}: files are left of a load that is done: {left}")
        for name in left:  # reported once
            (self._folder / name).unlink()
        return ended

    def _tries(self, kind: str, given: dict[str, Any]) -> tuple[dict[str, Any] | None, int]:
        for number in range(1, MOST_TRIES + 1):
            try:
                result = self._worker("load", self._account, kind, given)
            except DEAD:
                self._findings.count("loads resumed after SIGKILL")
                continue
            if "error" not in result:
                return result, number
            self._findings.count(f"loads stopped by {result['error']}")
            time.sleep(PAUSE)
        self._findings.require(False, f"{self.name}, load {self._number}: not done after {MOST_TRIES} tries")
        return None, MOST_TRIES

    def _read(self, files: Mapping[str, str], result: Mapping[str, Any], rows: int) -> dict[int, str]:
        """The outcomes by row number, after a check of the counts."""
        lines = _lines(files["outcomes.jsonl"])
        outcomes = {line["row_number"]: line["outcome"] for line in lines}
        rejected = sorted(line["row"] for line in _lines(files["rejects.jsonl"]))
        where = f"{self.name}, load {self._number}"
        require = self._findings.require
        require(sorted(line["row_number"] for line in lines) == list(range(1, rows + 1)), f"{where}: rows in the file")
        require(rejected == sorted(n for n, o in outcomes.items() if o == "rejected"), f"{where}: rows in the rejects")
        counts = {name: result.get(name, 0) for name in ("created", "updated", "unchanged", "rejected", "deleted")}
        found = {name: sum(outcome == name for outcome in outcomes.values()) for name in counts}
        require(found == counts, f"{where}: the summary says {counts}, the rows {found}")
        for line in lines:
            if line["outcome"] == "rejected":
                self._findings.count(f"rows rejected: {line['error_type']}")
        return outcomes

    def _faults(self) -> int:
        """The number of requests of the account with a fault so far."""
        return sum(self._crms("traffic", self._account)["faults"].values())

    def _contacts(self) -> dict[str, Any]:
        found: dict[str, Any] = self._crms("contacts", self._account, self._prefix)
        return found


def _lines(path: str) -> list[dict[str, Any]]:
    file = Path(path)
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()] if file.exists() else []
