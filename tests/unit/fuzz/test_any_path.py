"""Any character in an address and any text in a path reach a real server unchanged, or are refused."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from crm_provider import errors as e
from crm_provider.client import validation
from crm_provider.client.client import CrmClient
from crm_provider.client.settings import Settings
from crm_provider.client.transport import Transport
from crm_provider.rate_limit.limiter import UnlimitedRate
from crm_provider.sandbox import DEFAULT_API_KEY, Sandbox, ids

BMP = [chr(code) for code in range(0x10000)]


ATEXT = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$%&'*+/=?^_`{|}~-"
"""The ASCII characters of a part before the ``@`` (RFC 5322); dots may stand between them."""

VISIBLE_FORMATS = {0x600, 0x601, 0x602, 0x603, 0x604, 0x605, 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD}
"""Visible characters of the category "format": signs of Arabic, Syriac, and Kaithi numbers."""

INVISIBLE = [
    c
    for c in BMP
    if (unicodedata.category(c) == "Cf" and ord(c) not in VISIBLE_FORMATS)
    or c in "\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0\ufe00\ufe0f"
]


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(seed="demo", rate=None, magic=False) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def client(sandbox: Sandbox) -> Iterator[CrmClient]:
    settings = Settings(api_key=DEFAULT_API_KEY, base_url=sandbox.url)
    transport = Transport(settings, limiter=UnlimitedRate())
    yield CrmClient(settings, transport=transport)
    transport.close()


def assert_round_trip(client: CrmClient, email: str) -> None:
    created = client.create_contact(email)
    found = client.get_contact(email)
    assert (found["email"], found["id"]) == (unicodedata.normalize("NFC", email), created["id"])


@pytest.mark.parametrize("place", ["x{}", "a{}b"])
def test_every_ascii_character_alone(client: CrmClient, place: str) -> None:
    for number, character in enumerate(ATEXT):
        assert_round_trip(client, f"{place.format(character)}@{number}.{ord(place[0])}.example.com")


LOOKALIKES = ["%2e", "%2E%2e", "a/./b", "%", "%zz", "%%", "a%2Fb", "{email}", "a/b=c", "//", "a+"]


@pytest.mark.parametrize("local", LOOKALIKES)
def test_characters_with_a_meaning_in_urls(client: CrmClient, local: str) -> None:
    assert_round_trip(client, f"{local}@x.example")


def test_every_invisible_character_is_removed() -> None:
    for character in INVISIBLE:
        assert validation.email(f"a{character}b@{character}x.example{character}") == "ab@x.example", ascii(character)


@pytest.mark.parametrize(
    "email",
    ["", " ", ".", "..", "@", "a", "a@", "@x.example", "\t", "a" * 250 + "@x.example", "..@x.example", "a;b@x.example"],
)
def test_invalid_address_is_refused_before_anything_is_sent(client: CrmClient, sandbox: Sandbox, email: str) -> None:
    before = sandbox.counters().total
    for call in (client.get_contact, client.create_contact, client.delete_contact, client.verify_email):
        with pytest.raises(e.CrmInvalidValueError, match=r"^INVALID_VALUE: Email |^INVALID_VALUE: email "):
            call(email)
    assert sandbox.counters().total == before


PARTS = st.text(max_size=30) | st.text("./%\\?#&;=+ @{}é漢\u202e\n\0", max_size=8)


@given(part=PARTS)
@example(part=".")
@example(part="..")
@example(part="%2e%2e")
@example(part=" a ")
def test_any_text_is_one_path_segment_or_refused(client: CrmClient, sandbox: Sandbox, part: str) -> None:
    """The sandbox returns the address that it was asked to verify, whatever it is."""
    before = sandbox.counters().total
    fits = part.strip() and part not in (".", "..") and part.isprintable()
    try:
        found = client.request("POST", "/email-verification/{part}", path_params={"part": part})
    except e.CrmInvalidValueError as refused:
        assert not fits and "part" in refused.message
        assert sandbox.counters().total == before
    else:
        assert found["email"] == part
        assert sandbox.counters().total == before + 1


@given(text=PARTS | st.uuids().map(str) | st.uuids().map(lambda u: str(u).upper()) | st.uuids().map(lambda u: u.hex))
def test_id_is_a_uuid_or_refused(client: CrmClient, sandbox: Sandbox, text: str) -> None:
    before = sandbox.counters().total
    is_uuid = len(text) == 36 and [len(part) for part in text.split("-")] == [8, 4, 4, 4, 12]
    for call in (
        client.get_deal,
        client.delete_deal,
        lambda i: client.move_deal(i, stage_id=ids.stage_id("Sales", "Won")),
    ):
        with pytest.raises(e.CrmDealNotFoundError if is_uuid else e.CrmInvalidValueError):
            call(text)
    assert sandbox.counters().total == before + 3 * is_uuid
    if not is_uuid:
        with pytest.raises(e.CrmInvalidValueError, match="list_ids"):
            client.add_contact_to_lists("ada@example.com", [text])
        with pytest.raises(e.CrmInvalidValueError, match="list_id"):
            client.find_segmentation_list(list_id=text)
