"""The way of a call through the sandbox: route, key, faults in front, rate limit, faults behind it, backend, journal.

Pure Python: a call comes in as a value and its outcome goes out as one. ``app`` puts HTTP around it.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from crm_provider.errors import CrmContactAlreadyExistsError, CrmContactAssociatedWithADealError, CrmInvalidParamsError
from crm_provider.sandbox import ids
from crm_provider.sandbox.answers import Writer
from crm_provider.sandbox.bucket import TokenBucket
from crm_provider.sandbox.calls import Call, Visit, field_names, look_at
from crm_provider.sandbox.clock import Clock, SystemClock, timestamp
from crm_provider.sandbox.developer import DeveloperStore
from crm_provider.sandbox.effects import Outcome, strike
from crm_provider.sandbox.faultbook import FaultBook
from crm_provider.sandbox.faults import Fault
from crm_provider.sandbox.journal import Fingerprints, Journal, JournalEntry
from crm_provider.sandbox.magic import MagicBook, magic_email
from crm_provider.sandbox.operations import Success
from crm_provider.sandbox.problems import RefusedError, gateway_problem
from crm_provider.sandbox.records import JsonObject
from crm_provider.sandbox.routes import Route
from crm_provider.sandbox.seeds import fill, load_seed, snapshot
from crm_provider.sandbox.settings import Settings
from crm_provider.sandbox.store import Store

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from crm_provider.sandbox.settings import SettingsFields

_DUPLICATES = {
    ("POST /contacts", CrmContactAlreadyExistsError.type),
    ("POST /deals", CrmContactAssociatedWithADealError.type),
}
"""Calls that tried to create what was there: what a client that repeats a lost POST blindly is caught by."""

_ONLY_BY_RESET = frozenset({"seed", "journal_size"})


class Gateway:
    """The sandbox without HTTP: all its state, and what becomes of each call.

    :param keep: is given the state as a document after each change by a call
    :raises SeedError: the settings' seed cannot be used
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        clock: Clock | None = None,
        keep: Callable[[JsonObject], None] | None = None,
    ) -> None:
        self._keep = keep
        self.clock = clock or SystemClock()
        self.store = Store(self.clock)
        self.lock = self.store.lock
        self.fingerprints = Fingerprints()
        self.start_settings = settings or Settings()
        self.reset()

    def reset(self, settings: Settings | None = None) -> None:
        """Start anew: the seed's state, the settings of the start, full bucket; no faults, empty journal.

        :param settings: settings to start with from now on; None keeps those of the last start
        :raises SeedError: the seed cannot be used; then nothing changes
        """
        start = settings or self.start_settings
        fresh = Store(self.clock)
        fill(fresh, load_seed(start.seed))
        with self.lock:
            self.start_settings = start
            self._seq = 0
            self.store.take_over(fresh)
            self.faults = FaultBook(self.clock)
            self.journal = Journal(start.journal_size)
            self._magic = MagicBook(self.clock)
            self._use(start)
            self._fill_bucket()

    def configure(self, **changes: Unpack[SettingsFields]) -> Settings:
        """Change settings until the next reset; a change of the limit starts with a full bucket.

        :return: the settings in use now
        :raises ValueError: a value is not possible, or the field can only be changed by a reset
        """
        if fixed := sorted(_ONLY_BY_RESET & changes.keys()):
            raise ValueError(f"{' and '.join(fixed)} can only be changed by a reset")
        with self.lock:
            self._use(replace(self.settings, **changes))
            if changes.keys() & {"rate", "burst"}:
                self._fill_bucket()
            return self.settings

    def handle(self, call: Call) -> Outcome:
        """What becomes of a call; its effect on the state and its line in the journal are done when this returns."""
        with self.lock:
            self._seq += 1
            writer = Writer(
                envelope=self.settings.envelope,
                success=self.settings.success,
                request_id=ids.request_id(self._seq),
            )
            visit = look_at(call, self.store)
            outcome = self._decide(visit, writer)
            self._note(visit, writer.request_id, outcome)
            if self._keep is not None and outcome.applied and visit.method != "GET":
                self._keep(snapshot(self.store))
            return outcome

    # -- in front of the backend -----------------------------------------------------------------------------

    def _decide(self, visit: Visit, writer: Writer) -> Outcome:
        route = visit.route
        if route is None:
            return _gateway_says("unknown route", writer)
        if not route.keyless and (case := self._key_problem(visit.key)):
            return _gateway_says(case, writer)
        if fault := self._pick_fault(visit, in_front=True):
            return strike(fault, writer, lambda: self._backend(route, visit, writer))
        if not self._bucket.take():
            return _gateway_says("throttled", writer)
        fault = self._pick_fault(visit, in_front=False)
        return strike(fault, writer, lambda: self._backend(route, visit, writer))

    def _key_problem(self, key: str | None) -> str | None:
        if key is None:
            return "key missing"
        valid = self.settings.api_key
        accepted = valid is not None and hmac.compare_digest(key.encode(), valid.encode())
        return None if accepted else "key refused"

    def _pick_fault(self, visit: Visit, *, in_front: bool) -> Fault | None:
        chosen = self.faults.pick(visit.sighting, in_front=in_front)
        if chosen is None and self.settings.magic:
            return self._magic.pick(visit.sighting, in_front=in_front)
        return chosen

    # -- the backend -----------------------------------------------------------------------------------------

    def _backend(self, route: Route, visit: Visit, writer: Writer) -> Outcome:
        store = DeveloperStore(self.clock) if visit.developer_mode else self.store
        try:
            success = _carry_out(route, visit, store)
        except RefusedError as refused:
            error = refused.problem.type
            return Outcome(
                answer=writer.fail(refused.problem),
                error=error,
                duplicate=(route.name, error) in _DUPLICATES,
                detail=refused.detail,
            )
        if route.name == "POST /contacts" and self._is_blocked(success.data["email"]):
            store.block_contact(success.data["email"])
        return Outcome(answer=writer.succeed(success.status, success.data), applied=not visit.developer_mode)

    def _is_blocked(self, email: str) -> bool:
        row = magic_email(email) if self.settings.magic else None
        return row is not None and row.blocked

    # -- book-keeping ----------------------------------------------------------------------------------------

    def _note(self, visit: Visit, request_id: str, outcome: Outcome) -> None:
        self.journal.add(
            JournalEntry(
                seq=self._seq,
                at=self.clock.monotonic(),
                time=timestamp(self.clock.now()),
                method=visit.method,
                route=visit.sighting.template,
                request_id=request_id,
                status=outcome.answer.status if outcome.answer else None,
                error=outcome.error,
                fault=outcome.fault,
                applied=outcome.applied,
                duplicate=outcome.duplicate,
                developer_mode=visit.developer_mode,
                latency=outcome.hold,
                key=self.fingerprints.of(visit.key),
                email=self.fingerprints.of(visit.sighting.email),
                fields=field_names(visit.request.body),
                detail=outcome.detail,
            )
        )

    def _use(self, settings: Settings) -> None:
        self.settings = settings
        self.store.membership_delay = settings.membership_delay

    def _fill_bucket(self) -> None:
        self._bucket = TokenBucket(rate=self.settings.rate, burst=self.settings.burst, clock=self.clock)


def _carry_out(route: Route, visit: Visit, store: Store) -> Success:
    if any(not value.strip() for value in visit.request.params.values()):
        raise RefusedError(CrmInvalidParamsError, text=route.blank)
    if visit.refusal:
        raise visit.refusal
    return route.operation(store, visit.request)


def _gateway_says(case: str, writer: Writer) -> Outcome:
    problem = gateway_problem(case)
    return Outcome(answer=writer.fail(problem), error=problem.type)
