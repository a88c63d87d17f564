"""The steps of a request in the sandbox: route, key, faults in front, rate limit, faults behind it, backend, journal.

Pure Python: a request comes in as a value and an outcome is returned. ``http_server`` puts HTTP around it.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from crm_provider.sandbox import ids
from crm_provider.sandbox.fault_rules import FaultRules, MagicFaults, magic_email
from crm_provider.sandbox.faults import Fault, RequestOutcome, apply_fault
from crm_provider.sandbox.journal import JournalEntry, RequestJournal, ValueHasher
from crm_provider.sandbox.operations import ApiSuccess
from crm_provider.sandbox.responses import RefusedError, ResponseWriter, gateway_reply
from crm_provider.sandbox.routes import ParsedRequest, RawRequest, Route, field_names, parse_request
from crm_provider.sandbox.seeds import SEEDED_AT, fill, load_seed, snapshot
from crm_provider.sandbox.settings import Clock, SandboxOptions, SandboxSettings, SystemClock, timestamp
from crm_provider.sandbox.store import ContactRecord, CrmStore, DealRecord, JsonObject, SegmentationList, Stage

if TYPE_CHECKING:
    from typing_extensions import Unpack

_CREATIONS = {
    ("POST /contacts", "CONTACT_ALREADY_EXISTS"),
    ("POST /deals", "CONTACT_ASSOCIATED_WITH_A_DEAL"),
}
"""Requests that tried to create what exists: this exposes a client that blindly repeats a POST."""

_ONLY_BY_RESET = frozenset({"seed", "journal_size"})

_ROUNDING = 1e-6
"""Part of a token that may be missing: sums of floats drift, and a request exactly on time must pass."""


class Gateway:
    """The sandbox without HTTP: its whole state, and the outcome of each request.

    :param keep: receives the state as a document after each change by a request
    :raises SeedError: the settings' seed cannot be used
    """

    def __init__(
        self,
        settings: SandboxSettings | None = None,
        *,
        clock: Clock | None = None,
        keep: Callable[[JsonObject], None] | None = None,
    ) -> None:
        self._keep = keep
        self.clock = clock or SystemClock()
        self.store = CrmStore(self.clock)
        self.lock = self.store.lock
        self.hasher = ValueHasher()
        self.start_settings = settings or SandboxSettings()
        self.reset()

    def reset(self, settings: SandboxSettings | None = None) -> None:
        """Start again with the seed's state, the initial settings and a full bucket, without faults and journal.

        :param settings: initial settings from now on; None keeps the current ones
        :raises SeedError: the seed cannot be used; then nothing changes
        """
        start = settings or self.start_settings
        fresh = CrmStore(self.clock)
        fill(fresh, load_seed(start.seed))
        with self.lock:
            self.start_settings = start
            self._seq = 0
            self.store.replace_with(fresh)
            self.faults = FaultRules(self.clock)
            self.journal = RequestJournal(start.journal_size)
            self._magic = MagicFaults(self.clock)
            self._use(start)
            self._fill_bucket()

    def configure(self, **changes: Unpack[SandboxOptions]) -> SandboxSettings:
        """Change settings until the next reset. Changing the rate limit fills the bucket.

        :return: the current settings
        :raises ValueError: a value is invalid, or the field can only be changed by a reset
        """
        if fixed := sorted(_ONLY_BY_RESET & changes.keys()):
            raise ValueError(f"{' and '.join(fixed)} can only be changed by a reset")
        with self.lock:
            self._use(replace(self.settings, **changes))
            if changes.keys() & {"rate", "burst"}:
                self._fill_bucket()
            return self.settings

    def handle(self, raw: RawRequest) -> RequestOutcome:
        """The outcome of a request. The state and the journal are up to date when this returns."""
        with self.lock:
            self._seq += 1
            writer = ResponseWriter(
                envelope=self.settings.envelope,
                success=self.settings.success,
                request_id=ids.request_id(self._seq),
            )
            parsed = parse_request(raw, self.store)
            outcome = self._decide(parsed, writer)
            self._record(parsed, writer.request_id, outcome)
            if self._keep is not None and outcome.applied and parsed.method != "GET":
                self._keep(snapshot(self.store))
            return outcome

    # -- in front of the backend -------------------------------------------------------------------------

    def _decide(self, parsed: ParsedRequest, writer: ResponseWriter) -> RequestOutcome:
        route = parsed.route
        if route is None:
            return _gateway_error("unknown route", writer)
        if not route.keyless and (case := self._key_error(parsed.key)):
            return _gateway_error(case, writer)
        fault = self._pick_fault(parsed, in_front=True)
        if fault is None:
            if not self._bucket.take():
                return _gateway_error("throttled", writer)
            fault = self._pick_fault(parsed, in_front=False)
        return apply_fault(fault, writer, lambda: self._backend(route, parsed, writer))

    def _key_error(self, key: str | None) -> str | None:
        if key is None:
            return "key missing"
        valid = self.settings.api_key
        accepted = valid is not None and hmac.compare_digest(key.encode(), valid.encode())
        return None if accepted else "key refused"

    def _pick_fault(self, parsed: ParsedRequest, *, in_front: bool) -> Fault | None:
        chosen = self.faults.pick(parsed.facts, in_front=in_front)
        if chosen is None and self.settings.magic:
            return self._magic.pick(parsed.facts, in_front=in_front)
        return chosen

    # -- the backend -------------------------------------------------------------------------------------

    def _backend(self, route: Route, parsed: ParsedRequest, writer: ResponseWriter) -> RequestOutcome:
        store = DeveloperStore(self.clock) if parsed.developer_mode else self.store
        try:
            success = _carry_out(route, parsed, store)
        except RefusedError as refused:
            error = refused.reply.type
            return RequestOutcome(
                response=writer.fail(refused.reply),
                error=error,
                duplicate=(route.name, error) in _CREATIONS,
                detail=refused.detail,
            )
        if route.name == "POST /contacts" and self._is_blocked(success.data["email"]):
            store.block_contact(success.data["email"])
        response = writer.succeed(success.status, success.data)
        return RequestOutcome(response=response, applied=not parsed.developer_mode)

    def _is_blocked(self, email: str) -> bool:
        row = magic_email(email) if self.settings.magic else None
        return row is not None and row.blocked

    # -- journal and counters ------------------------------------------------------------------------------------

    def _record(self, parsed: ParsedRequest, request_id: str, outcome: RequestOutcome) -> None:
        self.journal.add(
            JournalEntry(
                seq=self._seq,
                at=self.clock.monotonic(),
                time=timestamp(self.clock.now()),
                method=parsed.method,
                route=parsed.facts.template,
                request_id=request_id,
                status=outcome.response.status if outcome.response else None,
                error=outcome.error,
                fault=outcome.fault,
                applied=outcome.applied,
                duplicate=outcome.duplicate,
                developer_mode=parsed.developer_mode,
                latency=outcome.delay,
                key=self.hasher.hash(parsed.key),
                email=self.hasher.hash(parsed.facts.email),
                fields=field_names(parsed.request.body),
                detail=outcome.detail,
            )
        )

    def _use(self, settings: SandboxSettings) -> None:
        self.settings = settings
        self.store.membership_delay = settings.membership_delay

    def _fill_bucket(self) -> None:
        self._bucket = TokenBucket(rate=self.settings.rate, burst=self.settings.burst, clock=self.clock)


def _carry_out(route: Route, parsed: ParsedRequest, store: CrmStore) -> ApiSuccess:
    if any(not value.strip() for value in parsed.request.params.values()):
        raise RefusedError("INVALID_PARAMS", text=route.blank)
    if parsed.refusal:
        raise parsed.refusal
    return route.operation(store, parsed.request)


def _gateway_error(case: str, writer: ResponseWriter) -> RequestOutcome:
    error = gateway_reply(case)
    return RequestOutcome(response=writer.fail(error), error=error.type)


# -- rate limit ---------------------------------------------------------------------------------------------


class TokenBucket:
    """Admits ``burst`` requests at once and one more every ``1 / rate`` seconds. A rejected request costs nothing.

    In any ``t`` seconds it admits at most ``burst + rate * t`` requests.

    :param rate: tokens per second, None for no limit
    """

    def __init__(self, *, rate: float | None, burst: int, clock: Clock) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._tokens = float(burst)
        self._filled_at = clock.monotonic()

    def take(self) -> bool:
        """Whether a request may pass now."""
        if self._rate is None:
            return True
        now = self._clock.monotonic()
        self._tokens = min(self._burst, self._tokens + (now - self._filled_at) * self._rate)
        self._filled_at = now
        if self._tokens < 1 - _ROUNDING:
            return False
        self._tokens -= 1
        return True


# -- developer mode: header x-developer-mode: true ------------------------------------------------------------

_PEOPLE = ("first@developer.example", "second@developer.example", "third@developer.example")


class DeveloperStore(CrmStore):
    """Made-up data for one request: everything that the request names exists, and nothing conflicts with it.

    Bodies are still checked. The store is discarded after the request, so nothing is kept.
    """

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        for email in _PEOPLE:
            self.put_deal(_made_up_deal(self._make_up(email, ids.contact_id(email)).id))
        self.add_list("Developer list")

    def contact(self, email: str) -> ContactRecord:
        return self.contacts.get(email) or self._make_up(email, ids.contact_id(email))

    def contact_with_id(self, contact_id: str) -> ContactRecord:
        known = (contact for contact in self.contacts.values() if contact.id == contact_id)
        return next(known, None) or self._make_up(f"{contact_id}@developer.example", contact_id)

    def deal(self, deal_id: str) -> DealRecord:
        if deal_id in self.deals:
            return self.deals[deal_id]
        owner = self._make_up(f"{deal_id}@developer.example", ids.contact_id(deal_id))
        return self.put_deal(_made_up_deal(owner.id, deal_id))

    def stage(self, pipeline_id: str, stage_id: str) -> Stage:
        return Stage(id=stage_id, name=f"Made up for pipeline {pipeline_id}")

    def segmentation_list(self, list_id: str) -> SegmentationList:
        return SegmentationList(id=list_id, name="Made up")

    def _make_up(self, email: str, contact_id: str) -> ContactRecord:
        attributes = {"name": "Developer Mode", "phone": "+15550100000"}
        return self.put_contact(ContactRecord(id=contact_id, email=email, created_at=SEEDED_AT, attributes=attributes))


def _made_up_deal(contact_id: str, deal_id: str | None = None) -> DealRecord:
    return DealRecord(
        id=deal_id or ids.deal_id(contact_id),
        contact_id=contact_id,
        pipeline_id=ids.pipeline_id("Sales"),
        stage_id=ids.stage_id("Sales", "New"),
        created_at=SEEDED_AT,
        attributes={"pb_name": "Developer Mode", "pb_amount": "100"},
    )
