"""Sensors, which must fire once after their condition holds, and watches, which must report each new member."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crm_provider.sandbox import ids

from .findings import Findings
from .processes import DEAD, Remote

INTERVAL = 5.0
"""Seconds between two checks of a sensor."""

LATE = 240.0
"""Seconds after which a sensor or a watch is too late in spite of faults, except for ``SLOW`` watches."""

FOREVER = 3600.0 * 24


@dataclass
class Waiting:
    """A sensor.

    :param data: arguments of its condition
    :param holds_since: time since which the condition holds; None while it does not
    :param until: time of its timeout, for conditions that never hold
    """

    kind: str
    email: str
    data: dict[str, Any]
    result: dict[str, Any]
    began: float
    holds_since: float | None = None
    until: float | None = None
    deal_id: str = ""


class Sensors(threading.Thread):
    """Deferred sensors in the worker that is not killed, a few at a time."""

    def __init__(
        self, crms: Remote, worker: Remote, account: int, seed: int, findings: Findings, inbox: Inbox,
        *, at_once: int, deleting: threading.Lock,
    ) -> None:  # fmt: skip
        super().__init__(daemon=True, name=f"sensors {account}")
        self._crms, self._worker, self._account, self._findings = crms, worker, account, findings
        self._inbox, self._at_once, self._deleting = inbox, at_once, deleting
        self._random = random.Random(f"{seed} sensors {account}")
        self._waiting: dict[str, Waiting] = {}
        self._number = 0
        self.ended = threading.Event()

    def run(self) -> None:
        try:
            while self._waiting or not self.ended.is_set():
                while len(self._waiting) < self._at_once and not self.ended.is_set():
                    self._begin()
                self._change()
                for name, at, payload in self._inbox.take(f"sensor-{self._account}-"):
                    self._fired(name, at, payload)
                self._check_late()
                time.sleep(0.5)
        except Exception as broken:
            self._findings.require(False, f"{self.name} crashed: {broken!r}")
            raise

    def _begin(self) -> None:
        self._number += 1
        email = f"awaited{self._number}@soak.example"
        kind = self._random.choice(["stage", "member", "value", "never"])
        made = self._crms("create", self._account, email, {"tier": "free"}, kind == "stage")
        awaited, won = ids.list_id("Awaited"), ids.stage_id("Sales", "Won")
        member = {"condition": "InList", "emails": [email], "list_id": awaited, "list_name": None, "match": "all"}
        data, result = {
            "stage": ({"condition": "DealInStage", "deal_id": made[-1], "stage_ids": [won], "until": "in"},
                      {"id": made[-1], "stage_id": won}),
            "member": (member, {"list_id": awaited, "contact_ids": [made[0]]}),
            "value": ({"condition": "ContactIs", "email": email, "status": None, "attributes": {"tier": "paid"}},
                      {"id": made[0], "status": "active"}),
            "never": ({"condition": "ContactIs", "email": email, "status": None, "attributes": {"tier": "none"}}, {}),
        }[kind]  # fmt: skip
        sensor = Waiting(kind, email, data, result, time.monotonic(), deal_id=made[-1])
        seconds = FOREVER
        if kind == "never":
            seconds = self._random.uniform(10, 40)
            sensor.until = time.monotonic() + seconds
        name = f"sensor-{self._account}-{self._number}"
        self._waiting[name] = sensor
        self._worker("wait", name, self._account, data, INTERVAL, seconds)

    def _change(self) -> None:
        """Make a few conditions hold each second."""
        for sensor in self._waiting.values():
            soon = self.ended.is_set() or self._random.random() < 0.03
            if sensor.kind != "never" and sensor.holds_since is None and soon:
                sensor.holds_since = time.monotonic()  # from now on the sensor may notice it
                if sensor.kind == "stage":
                    self._crms("move", self._account, sensor.deal_id, "Won")
                elif sensor.kind == "member":
                    self._crms("join", self._account, sensor.email, "Awaited")
                else:
                    self._crms("update", self._account, sensor.email, {"tier": "paid"})

    def _fired(self, name: str, at: float, payload: dict[str, Any]) -> None:
        sensor = self._waiting.pop(name, None)
        require = self._findings.require
        if sensor is None:
            require(False, f"a sensor of account {self._account} fired twice")
            return
        if "error" in payload:  # documented: such a response ends the wait, and a retry of the task continues
            self._findings.count(f"sensors ended by {payload['error'].get('type')}")
            self._waiting[name] = sensor
            seconds = FOREVER if sensor.until is None else max(sensor.until - time.monotonic(), 1.0)
            self._worker("wait", name, self._account, sensor.data, INTERVAL, seconds)
            return
        where = f"a sensor of account {self._account} ({sensor.kind})"
        if sensor.kind == "never":
            require(payload.get("limit") == "timeout", f"{where} ended with {sorted(payload)} instead of its timeout")
            require(at >= (sensor.until or 0.0), f"{where} timed out before its deadline")
            self._findings.count("sensors that timed out")
        elif require(sensor.holds_since is not None, f"{where} fired before its condition held: {sorted(payload)}"):
            require(payload.get("result") == sensor.result, f"{where} fired with another result")
            self._findings.count("sensors that fired")
            self._findings.measure("seconds until a sensor fired", at - (sensor.holds_since or 0.0))
        with self._deleting:
            self._crms("delete", self._account, sensor.email)

    def _check_late(self) -> None:
        for name, sensor in list(self._waiting.items()):
            since = sensor.until if sensor.kind == "never" else sensor.holds_since
            if since is not None and time.monotonic() > since + LATE:
                self._findings.require(False, f"a sensor of account {self._account} ({sensor.kind}) did not fire")
                del self._waiting[name]


class Inbox(threading.Thread):
    """The events of a worker's triggers. Returned events count as delivered."""

    def __init__(self, worker: Remote) -> None:
        super().__init__(daemon=True, name="inbox")
        self._worker, self._lock = worker, threading.Lock()
        self._events: list[tuple[str, float, dict[str, Any]]] = []
        self.ended = threading.Event()

    def run(self) -> None:
        while not self.ended.wait(0.3):
            try:
                found = self._worker("events")
            except DEAD:
                continue
            with self._lock:
                self._events += found

    def take(self, prefix: str) -> list[tuple[str, float, dict[str, Any]]]:
        """The events of these triggers since the last call."""
        with self._lock:
            mine = [event for event in self._events if event[0].startswith(prefix)]
            self._events = [event for event in self._events if not event[0].startswith(prefix)]
        return mine


@dataclass
class Reports:
    """Expected and actual reports of a watch.

    :ivar due: expected ids with the time of their arrival
    """

    due: dict[str, float] = field(default_factory=dict)
    emails: dict[str, str] = field(default_factory=dict)
    got: Counter[str] = field(default_factory=Counter)
    events: int = 0


class Watch(threading.Thread):
    """A watch of a list or a stage with random new members.

    :param kind: ``list`` or ``stage``
    :param late: seconds after which a report is too late
    """

    def __init__(
        self, crms: Remote, worker: Remote, account: int, kind: str, name: str, seed: int, folder: Path,
        findings: Findings, inbox: Inbox, *, interval: float, late: float, deleting: threading.Lock,
    ) -> None:  # fmt: skip
        super().__init__(daemon=True, name=f"watch {name}")
        self._crms, self._worker, self._account, self._kind, self._watch = crms, worker, account, kind, name
        self._findings, self._inbox, self._interval, self._late = findings, inbox, interval, late
        self._store, self._deleting = folder / f"{name}.store", deleting
        self._random = random.Random(f"{seed} {name}")
        self._reports = Reports()
        self._number = 0
        self._pid = 0
        self.ended = threading.Event()

    def run(self) -> None:
        try:
            while not self._is_ready() and not self.ended.is_set():
                self._begin()
                time.sleep(0.5)
            while not self.ended.is_set() or self._open():
                self._begin()
                if not self.ended.is_set() and self._random.random() < 0.08:
                    self._arrive()
                for _, at, payload in self._inbox.take(f"{self._watch}-"):
                    self._reported(at, payload)
                self._check_late()
                time.sleep(0.5)
            self._check_doubles()
        except Exception as broken:
            self._findings.require(False, f"{self.name} crashed: {broken!r}")
            raise

    def _begin(self) -> None:
        """Start the trigger, also after a kill."""
        if self._worker.pid == self._pid:
            return
        pid = self._worker.pid
        group = {"list": ids.list_id("Watched"), "killed": ids.list_id("Watched while killed"),
                 "stage": ids.stage_id("Sales", "Lost")}[self._kind]  # fmt: skip
        kind = "stage" if self._kind == "stage" else "list"
        try:
            name = f"{self._watch}-{pid}"
            self._worker("watch", name, self._account, kind, group, self._interval, str(self._store))
        except DEAD:
            return
        self._pid = pid

    def _is_ready(self) -> bool:
        """Whether the first snapshot, which reports nothing, is finished."""
        key = "revision"
        return self._store.exists() and key in self._store.read_text("utf-8")

    def _arrive(self) -> None:
        for _ in range(self._random.randint(1, 3)):
            self._number += 1
            email = f"{self._watch}{self._number}@soak.example"
            made = self._crms("create", self._account, email, {}, self._kind == "stage")
            self._reports.emails[made[-1]] = email
            self._reports.due[made[-1]] = time.monotonic()
            if self._kind == "stage":
                self._crms("move", self._account, made[-1], "Lost")
            else:
                self._crms("join", self._account, email, "Watched" if self._kind == "list" else "Watched while killed")

    def _reported(self, at: float, payload: dict[str, Any]) -> None:
        if not self._findings.require("crashed" not in payload, f"{self.name} crashed: {payload.get('crashed')}"):
            return
        self._reports.events += 1
        self._findings.count("events of watches")
        for id_ in payload.get("deal_ids") or payload.get("contact_ids") or []:
            self._reports.got[id_] += 1
            since = self._reports.due.get(id_)
            ours = id_ in self._reports.emails or self._kind == "stage"  # loads also move deals into the stage
            self._findings.require(ours, f"{self.name}: reported a contact that did not join")
            if since is not None and self._reports.got[id_] == 1:
                self._findings.count("newcomers reported by watches")
                self._findings.measure("seconds until a watch reported", at - since)
                with self._deleting:
                    self._crms("delete", self._account, self._reports.emails[id_])
                del self._reports.due[id_]

    def _open(self) -> bool:
        return bool(self._reports.due)

    def _check_late(self) -> None:
        for id_, since in list(self._reports.due.items()):
            if time.monotonic() > since + self._late:
                self._findings.require(False, f"{self.name}: a newcomer was not reported")
                del self._reports.due[id_]

    def _check_doubles(self) -> None:
        """Each new member is reported once, and after a kill at most the last event is repeated."""
        for _, at, payload in self._inbox.take(f"{self._watch}-"):
            self._reported(at, payload)
        doubles = {id_: times for id_, times in self._reports.got.items() if times > 1 and id_ in self._reports.emails}
        again = sum(times - 1 for times in doubles.values())
        self._findings.count(
            "newcomers reported again after SIGKILL" if self._worker.kills else "newcomers twice", again
        )
        if not self._worker.kills:
            self._findings.require(not again, f"{self.name}: {again} newcomers were reported twice")
        else:
            most = max(doubles.values(), default=1)
            self._findings.require(most <= 1 + self._worker.kills, f"{self.name}: a newcomer was reported {most} times")
