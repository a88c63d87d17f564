"""Plays a scenario: loads and their tries, with faults, kills, and changes by other clients."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import engine
from .engine import Ended, Files, Killed
from .fake_crm import FAULTS, Clock, Entry, Event, FakeCrm, Http
from .scenario import Fault, LoadSpec, Scenario

MOST_TRIES = 9
"""Tries of a load after which no more faults occur."""

BETWEEN_TRIES, BETWEEN_LOADS = 600.0, 86_400.0
"""Seconds."""

MEMORY = "/dev/shm"
"""A folder in memory, if available."""


@dataclass
class Reported:
    """The known facts about a finished load.

    :param start: the CRM before it; for resent rejects, before the load that rejected them
    :param log: the CRM's events during the load; ``history`` is the log of all loads up to its end
    :param outcomes: of the rows, by number
    :param calls: the calls that the CRM received, as far as a try could report them
    :param tries: how each ended: as in :class:`Ended`, or ``killed``
    :param has_dates: whether the CRM shows its time, and when a contact was created
    :param has_clear_errors: whether an error carries more than its status
    :param last: the load just before it, None if there was none or it was abandoned
    """

    spec: LoadSpec
    rows: dict[int, Mapping[str, Any]]
    start: dict[str, Entry]
    end: dict[str, Entry]
    log: list[Event]
    history: list[Event]
    chain: int
    outcomes: dict[int, str]
    rejects: dict[int, dict[str, Any]]
    written: list[tuple[int, str, str | None]]
    """Number, outcome, and error of each line of the outcomes file."""
    ended: Ended
    calls: int
    tries: list[str] = field(default_factory=list)
    is_resent: bool = False
    has_state: bool = True
    has_dates: bool = True
    has_clear_errors: bool = True
    last: Reported | None = None


class Story:
    """Plays a scenario load by load."""

    def __init__(self, scenario: Scenario, folder: Path) -> None:
        self.scenario, self.folder = scenario, folder
        self.clock = Clock()
        self.crm = FakeCrm(
            self.clock, skew=scenario.skew, dates=scenario.dates, errors=scenario.errors, envelope=scenario.envelope
        )
        for person in scenario.people:
            self.crm.seed(person)
        self.last: Reported | None = None

    def play(self, spec: LoadSpec, place: int) -> list[Reported]:
        """One load and the load of its rejects.

        :return: the facts about both; nothing about an abandoned load
        """
        self.clock.advance(BETWEEN_LOADS)
        for change in spec.beside:
            if change.at is None:
                self.crm.change(change)
        self.clock.advance(BETWEEN_TRIES)  # within a second of the load the creator of a contact is unknown
        self.crm.chain = place
        files = self._files(f"load-{place}")
        start = self.crm.state()
        reported = _Run(self, spec, files, start, list(spec.faults)).until_it_ends()
        last, self.last = self.last, reported
        if reported is None:
            return []
        reported.last = last
        engine.forget_checkpoint(files.checkpoint)
        if not spec.resend or not reported.rejects:
            return [reported]
        self.clock.advance(BETWEEN_TRIES)
        again = self._files(f"resent-{place}")
        again.source = files.rejects
        resent = _Run(self, spec, again, start, list(spec.resend_faults), before=reported).until_it_ends()
        assert resent is not None
        engine.forget_checkpoint(again.checkpoint)
        return [reported, resent]

    def _files(self, name: str) -> Files:
        state = self.folder / "state" if self.scenario.state else None
        return Files(self.folder / f"{name}.checkpoint", self.folder / f"{name}.rejects.jsonl", state)


class _Run:
    """One load with its tries."""

    def __init__(
        self, story: Story, spec: LoadSpec, files: Files, start: dict[str, Entry], faults: list[Fault],
        before: Reported | None = None,
    ) -> None:  # fmt: skip
        self.story, self.spec, self.files, self.start = story, spec, files, start
        self.crm, self.faults, self.before = story.crm, faults, before
        self.first_event = len(self.crm.log)
        self.calls = self.calls_reported = self.saves = 0
        self.calls_of_try = self.calls_saved = 0
        self.outcomes: dict[int, str] = {}
        self.snapshot: dict[Path, bytes] | None = None
        self.tries: list[str] = []
        self.lasting: str | None = None
        self.interrupt = lambda: None

    def until_it_ends(self) -> Reported | None:
        for number in range(MOST_TRIES + 3):
            self.crm.attempt = number
            ended = self._try()
            if ended is not None and ended.how == "done":
                return self._reported(ended)
            if self.spec.abandon and self.before is None:
                engine.forget_checkpoint(self.files.checkpoint)
                return None
            if number >= MOST_TRIES:
                self.faults = []
            self.story.clock.advance(BETWEEN_TRIES)
        raise AssertionError(f"the load does not end, though nothing goes wrong any more: {self.tries}")

    def _try(self) -> Ended | None:
        self.snapshot, self.lasting = None, None
        self.calls_of_try = self.calls_saved = 0
        try:
            ended = engine.attempt(
                self.spec,
                self.files,
                self.crm,
                self._serve,
                on_outcome=self._on_outcome,
                on_save=self._on_save,
                with_interrupt=lambda interrupt: setattr(self, "interrupt", interrupt),
            )
        except Killed:
            self._restore()
            self.tries.append("killed")
            self.calls_reported += self.calls_saved
            return None
        self.tries.append(ended.how if ended.error is None else f"stopped by {ended.error}")
        self.calls_reported += self.calls_of_try
        return ended

    def _reported(self, ended: Ended) -> Reported:
        rows = dict(enumerate(self.spec.rows, start=1))
        if self.before is not None:
            rows = dict(enumerate((line["values"] for line in self.before.rejects.values()), start=1))
        return Reported(
            spec=self.spec,
            rows=rows,
            start=self.start,
            end=self.crm.state(),
            log=self.crm.log[self.first_event :],
            history=list(self.crm.log),
            chain=self.crm.chain,
            outcomes=self.outcomes,
            rejects=engine.rejects_of(self.files.rejects),
            written=engine.outcomes_of(self.files.outcomes),
            ended=ended,
            calls=self.calls_reported,
            tries=self.tries,
            is_resent=self.before is not None,
            has_state=self.files.state is not None,
            has_clear_errors=self.story.scenario.errors != "bare",
            has_dates=self.story.scenario.dates == "both",
        )

    # -- callbacks of the engine -----------------------------------------------------------------------------

    def _serve(self, method: str, path: str, query: Mapping[str, str], body: Any) -> Http:
        if self.snapshot is not None:
            raise Killed
        number = self.calls
        kind = self._fault_at(number)
        if kind == "kill before":
            self._kill()
        self.calls += 1
        self.calls_of_try += 1
        for change in self.spec.beside if self.before is None else ():
            if change.at == number:
                self.crm.change(change)
        if kind == "interrupt":
            self.interrupt()
        response = self.crm.response(method, path, query, body, kind if kind in FAULTS else None)
        if kind == "kill after":
            self._kill()
        return response

    def _fault_at(self, number: int) -> str | None:
        if self.lasting is not None:
            return self.lasting
        found = next((fault for fault in self.faults if fault.at <= number < fault.at + fault.count), None)
        if found is None:
            return None
        if found.kind in FAULTS and FAULTS[found.kind].lasts:
            self.lasting = found.kind
        return found.kind

    def _on_outcome(self, number: int, outcome: str) -> None:
        if self.snapshot is None:
            self.outcomes[number] = outcome

    def _on_save(self, when: str) -> None:
        if self.snapshot is not None:
            return
        if when == "after":
            self.calls_saved = self.calls_of_try
        number = self.saves
        is_killed = self.before is None and (number, when) in self.spec.kills
        if is_killed or when == "after":
            self.saves += 1  # the next try is not killed at the same save again
        if is_killed:
            self._kill()

    # -- kills -----------------------------------------------------------------------------------------------

    def _kill(self) -> None:
        """Keep the current files: later writes of our own code must not change them."""
        self.faults = [fault for fault in self.faults if not fault.kind.startswith("kill") or fault.at > self.calls]
        self.snapshot = {path: path.read_bytes() for path in self.story.folder.iterdir()}
        raise Killed

    def _restore(self) -> None:
        assert self.snapshot is not None
        for path in self.story.folder.iterdir():
            if path not in self.snapshot:
                path.unlink()
        for path, content in self.snapshot.items():
            if not path.exists() or path.read_bytes() != content:
                path.write_bytes(content)
                path.chmod(0o600)


def folder() -> tempfile.TemporaryDirectory[str]:
    """The files of one scenario."""
    return tempfile.TemporaryDirectory(dir=MEMORY if Path(MEMORY).is_dir() else None)


def summary_of(reported: Reported) -> str:
    """A load as text, for debugging."""
    rows = [f"  row {n}: {reported.outcomes.get(n, '?'):10} {dict(values)}" for n, values in reported.rows.items()]
    log = [f"  {event}" for event in reported.log]
    rejects = [f"  row {n}: {line['type']}" for n, line in reported.rejects.items()]
    kind = "Resent rejects" if reported.is_resent else "Load"
    ended = reported.ended
    head = (
        f"{kind}: {reported.tries}, {dict(ended.counts)}, {ended.calls} calls (counted: {reported.calls}), "
        f"plan {ended.plan}, forecast {ended.forecast}"
    )
    return "\n".join([head, *rows, "Rejects:", *rejects, "Log:", *log])
