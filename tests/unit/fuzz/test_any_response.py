"""After any response, each call returns what it promises or raises a CrmError that can be stored and shown."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from crm_provider import errors as e
from crm_provider.client.client import CrmClient
from crm_provider.client.request import Call
from crm_provider.client.responses import CrmResponse, value_of
from crm_provider.client.retry import RetryBudget
from crm_provider.client.settings import Settings
from crm_provider.client.transport import Transport
from unit.fakes import KEY, FakeClock, FakeRateLimiter
from unit.reference import TYPES

from .conftest import Guard

EMAIL, ID = "zq.ada@example.com", "123e4567-e89b-12d3-a456-426614174000"
OTHER = "zq.somebody.else@example.org"
"""An address that no call sends: only the CRM has it."""

# -- bodies --------------------------------------------------------------------------------------------------

NAMES = ["errorCode", "code", "type", "errorType", "error", "message", "Message", "name", "errors", "requestId",
         "data", "id", "email", "total", "page", "stageId", "contactId", "pipelineId", "attributes",
         "segmentedListsIds"]  # fmt: skip
TEXTS = st.text(max_size=12) | st.sampled_from(
    [*TYPES, OTHER, f"<{OTHER}>", f"Contact {OTHER} exists", KEY, "\ud83d", ID, "NaN", "", " ", ".."]
)
LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), st.just(10**400), st.floats(), TEXTS)
RECORD = st.fixed_dictionaries({"id": LEAVES}, optional={name: LEAVES for name in NAMES if name != "id"})
SHAPES = st.one_of(
    st.recursive(
        LEAVES | RECORD,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=5),
        max_leaves=12,
    ),
    st.lists(RECORD, max_size=11).map(lambda records: {"page": 0, "total": len(records), "data": records}),
    RECORD.map(lambda record: {"message": "ok", "data": record}),
)
CHARSETS = st.sampled_from(["utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "cp1252"])


def encoded(value: Any, charset: str, escaped: bool) -> bytes:
    return json.dumps(value, ensure_ascii=escaped).encode(charset, "surrogatepass" if "utf" in charset else "replace")


JSONS = st.builds(encoded, SHAPES, CHARSETS, st.booleans())
PATHOLOGICAL = [
    b'{"id": "1", "id": "2"}', b'{"id": 1e999}', b'{"id": NaN}', b'{"id": -Infinity}',
    b'{"amount": 1e99999999999999999999}',
    b'{"id": ' + b"9" * 5000 + b"}", b"[" * 100_000, b'{"data":' * 5000 + b"1" + b"}" * 5000,
    b'{"data": {"id": "1", "notes": ' + b"[" * 300 + b"]" * 300 + b"}}",
    b'{"id": "\xed\xa0\x80"}', b'{"id": "\\ud800"}',
    b"\xff\xfe\x00\xd8", b"\xef\xbb\xbf", b"\x00", b'"' + b"\\" * 9999, b'{"message": "' + b"a%40" * 9000 + b'"}',
    b'{"message": "' + b"9" * 70_000 + b'"}', b"@" * 70_000, b'"' * 70_000, b"<html>" + b"&lt;" * 9000,
    b'{"errors": [' + b'{"message": 1},' * 5000 + b"{}]}",
]  # fmt: skip
BODIES = st.one_of(JSONS, st.sampled_from(PATHOLOGICAL), st.binary(max_size=60), JSONS.map(lambda body: body[:-1]))
STATUSES = st.sampled_from([200, 201, 204, 299]) | st.integers(100, 999)
HEADERS = st.dictionaries(
    st.sampled_from(["Retry-After", "Date", "x-amzn-ErrorType", "x-amzn-requestid", "Location", "Content-Type"]),
    st.text(max_size=30) | st.sampled_from([OTHER, "http://[", "9" * 400, "Tue, 15 Nov 1994 08:13:01 +9999", KEY]),
    max_size=3,
)


@dataclass
class AnyHttp:
    """Gives the same response to every request."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    sent: list[str] = field(default_factory=list)

    def round_trip(self, call: Call) -> CrmResponse:
        self.sent.append(f"{call.method} {call.route}")
        return CrmResponse(
            method=call.method, path=call.log_path, status=self.status, headers=self.headers, body=self.body,
            sensitive_values=(KEY, *call.sensitive_values), allow_any_body=call.allow_any_body,
            use_decimal=call.use_decimal,
        )  # fmt: skip


def client_of(http: AnyHttp) -> CrmClient:
    settings, clock = Settings(api_key=KEY, base_url="http://127.0.0.1:9/v2"), FakeClock()
    budget = RetryBudget(tries=2, seconds=1e9)
    transport = Transport(settings, limiter=FakeRateLimiter(), clock=clock, sleep=clock.sleep)
    transport.close()
    transport._http = http  # type: ignore[assignment]
    return CrmClient(settings, transport=transport, budget=budget)


# -- the promises of each call -------------------------------------------------------------------------------


def is_id(value: Any) -> bool:
    return (isinstance(value, str) and value != "") or (isinstance(value, int) and not isinstance(value, bool))


def has_id(record: Any) -> bool:
    return isinstance(record, dict) and is_id(record.get("id"))


def is_ref(found: Any) -> bool:
    return isinstance(found["id"], str) and has_id(found) and found["email"] == EMAIL


def are_records(found: Any) -> bool:
    return isinstance(found, list) and all(isinstance(record, dict) for record in found)


Promise = Callable[[Any], bool]
CALLS: dict[str, tuple[Callable[[CrmClient], Any], Promise]] = {
    "get_contact": (lambda c: c.get_contact(EMAIL), has_id),
    "create_contact": (lambda c: c.create_contact(EMAIL, attributes={"name": "Ada"}), is_ref),
    "update_contact": (lambda c: c.update_contact(EMAIL, attributes={"name": "Ada"}), is_ref),
    "upsert_contact": (lambda c: c.upsert_contact(EMAIL, attributes={"name": "Ada"}), is_ref),
    "delete_contact": (lambda c: c.delete_contact(EMAIL), lambda found: found is None),
    "list_contacts": (lambda c: list(c.list_contacts()), are_records),
    "list_pages": (lambda c: [p.page.items for p in c.list_pages("deals", use_decimal=True, at_once=3)], bool),
    "count_contacts": (lambda c: c.count_contacts(), lambda found: found is None or found >= 0),
    "count_deals": (lambda c: c.count_deals(), lambda found: found is None or found >= 0),
    "create_deal": (lambda c: c.create_deal(contact_id=ID, pipeline_id=ID, stage_id=ID), has_id),
    "get_deal": (lambda c: c.get_deal(ID), has_id),
    "move_deal": (lambda c: c.move_deal(ID, stage_id=ID), lambda found: isinstance(found, dict)),
    "find_list": (lambda c: c.find_segmentation_list(list_id=ID), lambda found: found["id"] == ID),
    "add_to_lists": (lambda c: c.add_contact_to_lists(EMAIL, [ID]), lambda found: isinstance(found, dict)),
    "verify_email": (lambda c: c.verify_email(EMAIL), lambda found: isinstance(found, dict)),
    "request": (lambda c: c.request("PATCH", "/notes", json={"a": 1}), lambda found: True),
    "ping": (lambda c: c.ping(), lambda found: found is None),
}


@given(call=st.sampled_from(sorted(CALLS)), status=STATUSES, headers=HEADERS, body=BODIES)
@example(call="upsert_contact", status=200, headers={}, body=b'{"data": {"email": "zq.ada@example.com"}}')
@example(call="create_contact", status=201, headers={}, body=b'{"data": {"id": ["1"]}}')
@example(call="list_pages", status=200, headers={}, body=b'{"total": 1%s, "data": [{"id": 1}]}' % (b"0" * 400))
@example(call="list_pages", status=200, headers={}, body=b'{"total": 1, "data": [{"id": 1e99999999999999999999}]}')
@example(call="request", status=200, headers={}, body=b'{"name": "\\ud83d"}')
@example(call="request", status=200, headers={}, body=b'{"name": 1e999}')
def test_call_keeps_its_promise_or_raises(
    ends: Guard, call: str, status: int, headers: dict[str, str], body: bytes
) -> None:
    made, promised = CALLS[call]
    http = AnyHttp(status, headers, body)
    try:
        with ends():
            found = made(client_of(http))
    except e.CrmError as error:
        assert fit_to_be_shown(error)
        assert status < 300 or error.outcome_known or any(not sent.startswith("GET") for sent in http.sent)
        return
    assert 200 <= status < 300, "an error was treated as a success"
    assert promised(found)
    json.dumps(found, allow_nan=False, ensure_ascii=False, default=str).encode()


def fit_to_be_shown(error: e.CrmError) -> bool:
    """The error shows neither the values of other people nor the key, in JSON and after pickling."""
    data = json.dumps(error.as_dict(), allow_nan=False, ensure_ascii=False)
    data.encode()
    for shown in (str(error), repr(error), data, str(error.__cause__), str(error.__context__)):
        assert OTHER not in shown and EMAIL not in shown and KEY not in shown
    for again in (pickle.loads(pickle.dumps(error)), e.CrmError.from_dict(json.loads(data))):
        assert (type(again), str(again), again.as_dict()) == (type(error), str(error), error.as_dict())
    return len(error.message) < 300 and error.message.isprintable()


@given(body=BODIES, exact=st.booleans())
def test_success_is_plain_json(ends: Guard, body: bytes, exact: bool) -> None:
    response = CrmResponse(method="GET", path="/x", status=200, headers={}, body=body, use_decimal=exact)
    try:
        with ends():
            found = value_of(response)
    except e.CrmError:
        return
    json.dumps(found, allow_nan=False, ensure_ascii=False, default=str).encode()
    repr(found)
