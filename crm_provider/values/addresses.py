"""Email addresses: which address a text means, and which addresses are the same person.

Loads, suppression lists, the hook, operators and sensors all use it. `email-validator`_ decides what a valid address is
(syntax only, no DNS query), with three exceptions:

- Special-use domains (``.test``, ``.invalid``, ``.local``, ``localhost``, ...) are accepted: test accounts have them.
- A quoted part before the ``@`` (``"a b"@example.com``) is refused: it looks like quotes around the address.
- Text that people and programs write around an address is removed, see :func:`one_address`.

.. _email-validator: https://github.com/JoshData/python-email-validator
"""

from __future__ import annotations

import html
import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from urllib.parse import unquote

MAX_LENGTH = 254
"""Bytes of an address in UTF-8 (RFC 5321: 256 for the path with its angle brackets)."""

_MAX_TEXT = 2000
"""Characters of an address with a long display name. Longer texts are refused unread."""

_LABEL = r"(?!..--|[^.]{64})[A-Za-z0-9]+(?:-+[A-Za-z0-9]+)*"
_ATEXT = r"A-Za-z0-9!#$%&'*+/=?^_`{|}~-"
_PLAIN = re.compile(
    rf"(?!['`])[{_ATEXT}]+(?:\.[{_ATEXT}]+)*@{_LABEL}(?:\.{_LABEL})+(?<=[A-Za-z])"  # IGNORECASE takes twice the time
)
"""An ASCII address of any length without anything around it."""

_SPECIAL_USE = frozenset({"arpa", "invalid", "local", "localhost", "onion", "test"})
"""Top-level domains that email-validator refuses unless its global list is changed, which would affect other users of
the library in the same process."""

_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u2800\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
"""Invisible characters: soft hyphen, zero width, direction marks, byte order mark, variation selectors, ..."""

_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z]\w{1,30});")

_QUOTES = (
    "\"'`\u00b4\u2018\u2019\u201a\u201b\u201c\u201d\u201e\u201f\u2032\u2033\u00ab\u00bb\u2039\u203a"
    "\u300c\u300d\u300e\u300f\uff02\uff07"
)
"""Straight and typographic quotation marks, and accents and primes used as such."""
_AROUND = "".join(chr(code) for code in (*range(0x21), 0x7F, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B))) + (
    "\u2028\u2029\u202f\u205f\u3000"
)
"""Space and control characters. They are removed at the ends only."""

_PAIRS = {"(": ")", "[": "]", "{": "}"}
_SCHEME = re.compile(r"(?:mailto|smtp|e-?mail)\s*:\s*(?://)?", re.IGNORECASE)
_IN_BRACKETS = re.compile(r"(?P<name>[^<>]*)<(?P<inner>[^<>]*)>")
_ADDRESS_LIKE = re.compile(r"[^\s@<>,;\"]+@[^\s@<>,;\"]+\.[^\s@<>,;\".]+")
_FURTHER_RECIPIENT = re.compile(r"(?:^|&)(?:to|cc|bcc)=[^&]*(?:@|%40)", re.IGNORECASE)


_INVALID = "is not a valid email address"


class NotOneAddress(ValueError):
    """A text that is not exactly one email address.

    :param kind: the problem, to follow the field's name; the same text for the same mistake in every row
    :param fix: what to do about it
    """

    def __init__(self, kind: str, fix: str) -> None:
        super().__init__(f"{kind}; {fix}")
        self.kind = kind
        self.fix = fix


@dataclass(frozen=True)
class _Address:
    """A valid address.

    :param written: as it was spelled, in composed characters (NFC)
    :param local: the part before the ``@`` as spelled
    :param ascii_domain: the domain in lower case and in punycode
    :param domain: the domain in lower case and in Unicode
    """

    written: str
    local: str
    ascii_domain: str
    domain: str

    @property
    def key(self) -> str:
        return f"{_folded(self.local)}@{self.ascii_domain}"


@lru_cache(maxsize=4)  # a row asks several times for its address
def is_plain_address(text: str) -> bool:
    """Whether it is an ASCII address without anything around it.

    It is valid for email-validator, too (a test compares them), and this check is 50 times faster. The library checks
    punycode (``xn--``).
    """
    return len(text) <= MAX_LENGTH and _PLAIN.fullmatch(text) is not None


def one_address(text: str) -> str:
    """The one address that a text means, as spelled, in composed characters (NFC).

    Removed are: spaces around it, angle brackets with or without a name before them, parentheses, ``mailto:`` (with its
    query), quotation marks, trailing ``;`` ``,`` ``.``, HTML entities such as ``&nbsp;``, and invisible characters.

    >>> one_address("Ann Lee <Ann@Example.com>;")
    'Ann@Example.com'

    :raises NotOneAddress: if there is none, or more than one; the message shows no part of the value
    """
    return text if is_plain_address(text) else _read(text).written


def person_key(address: str) -> str:
    """A key that is equal for all spellings of one person's address.

    Upper and lower case, composed and decomposed characters (NFC, NFD), and a domain in Unicode or in punycode are the
    same person. The key of a text that is not one address is its lower-case form.
    """
    if is_plain_address(address):
        return address.lower()
    try:
        return _read(address).key
    except NotOneAddress:
        return _folded(_INVISIBLE.sub("", address).strip())


def spellings(address: str) -> frozenset[str]:
    """The spellings of an address that may have been hashed, in lower case and as given: NFC, NFD, punycode.

    :raises NotOneAddress: if it is not one address
    """
    if is_plain_address(address):
        return frozenset((address, address.lower(), address.upper()))
    read = _read(address)
    spelled = read.written.rpartition("@")[2]
    locals_ = {_folded(read.local), *_forms(read.local.lower())}
    domains = {read.ascii_domain, *_forms(read.domain), *_forms(spelled.lower())}
    lower = {f"{local}@{domain}" for local, domain in product(locals_, domains)}
    return frozenset({address, read.written, address.lower(), *lower, *(spelling.upper() for spelling in lower)})


def without_wrapping(text: str) -> str:
    """The text without what may surround an address.

    :raises NotOneAddress: if it cannot be an address
    """
    if len(text) > _MAX_TEXT:
        raise _too_long()
    return _unwrapped(text)


# -- reading ------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1024)
def _read(text: str) -> _Address:
    bare = without_wrapping(text)
    if not bare:
        raise NotOneAddress("is empty", "give an email address")
    return _validated(bare)


def _unwrapped(text: str) -> str:
    text = _clean(text)
    while True:
        before = text
        text = _without_ends(text)
        text = _without_scheme(text)
        text = _without_brackets(text)
        text = _clean(text)
        if text == before:
            return text


def _clean(text: str) -> str:
    if "&" in text:
        text = _ENTITY.sub(lambda found: html.unescape(found[0]), text)
    return unicodedata.normalize("NFC", _INVISIBLE.sub("", text))


def _without_ends(text: str) -> str:
    """Without space, quotation marks, separators and a pair of parentheses at the ends."""
    text = text.lstrip(_AROUND + ",;").rstrip(_AROUND + ",;.")
    if text[:2] == '="' and text[-1] == '"':  # how spreadsheets mark a cell as text
        text = text[1:]
    if _has_quoted_local_part(text):
        raise NotOneAddress(f"{_INVALID} (the part before the @ is in quotation marks)", "give one without them")
    text = text.lstrip(_QUOTES).rstrip(_QUOTES)
    if text and _PAIRS.get(text[0]) == text[-1]:
        text = text[1:-1]
    return text


def _has_quoted_local_part(text: str) -> bool:
    local, at, domain = text.rpartition("@")
    quoted = len(local) > 1 and local[0] in _QUOTES and local[-1] in _QUOTES
    return bool(at and domain and quoted) and domain[-1] not in _QUOTES and "<" not in local


def _without_scheme(text: str) -> str:
    found = _SCHEME.match(text)
    if found is None:
        return text
    text = text[found.end() :]
    path, question, query = text.partition("?")
    if question and ("@" in path or "%40" in path):  # an address may contain a "?", but its domain may not
        if _FURTHER_RECIPIENT.search(query):
            raise _several()
        text = path
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:  # "%ce" in "per%cent" is not an escape
        return text


def _without_brackets(text: str) -> str:
    """The content of angle brackets. A name before them may repeat the address, as mail programs write it."""
    found = _IN_BRACKETS.fullmatch(text)
    if found is None or "@" not in found["inner"]:
        return text
    if "@" in found["name"] and person_key(found["name"]) != person_key(found["inner"]):
        raise _several()
    return found["inner"]


# -- checking -----------------------------------------------------------------------------------------------


def _validated(text: str) -> _Address:
    """Check an address without anything around it.

    :raises NotOneAddress: naming the problem
    """
    local, at, domain = text.rpartition("@")
    if not at:
        raise NotOneAddress(f"{_INVALID} (it has no @)", "correct it")
    if "@" in local:
        if len(_ADDRESS_LIKE.findall(text)) > 1:
            raise _several()
        raise NotOneAddress(f"{_INVALID} (it has more than one @)", "correct it, or put each address in its own row")
    if any(c.isspace() for c in text):
        raise NotOneAddress(f"{_INVALID} (there is a space or other text in it)", "leave only the address")
    if not local or not domain:
        raise NotOneAddress(f"{_INVALID} (there is nothing before or after the @)", "correct it")
    if len(text.encode(errors="replace")) > MAX_LENGTH:
        raise _too_long()
    found = _by_library(local, domain)
    if found is not None:
        return _Address(text, local, *found)
    if "." not in domain:
        raise NotOneAddress(f"{_INVALID} (the part after the @ has no dot)", "correct it")
    if _by_library(local, "example.com") is None:
        raise NotOneAddress(f"{_INVALID} (the part before the @ has an invalid character or dot)", "correct it")
    raise NotOneAddress(f"{_INVALID} (the part after the @ is not a domain name)", "correct it")


def _by_library(local: str, domain: str) -> tuple[str, str] | None:
    """The domain in ASCII and in Unicode, None if the library refuses the address."""
    from email_validator import EmailNotValidError, validate_email

    stem, _, last = domain.rpartition(".")
    special = last.lower() if last.lower() in _SPECIAL_USE and (stem or last.lower() == "localhost") else ""
    # a substitute of the same length does not change the result of the checks of syntax and length
    end = ("x" * len(special)) if stem else "x.xxxxxxx"
    try:
        found = validate_email(
            f"{local}@{domain[: -len(special)]}{end}" if special else f"{local}@{domain}",
            allow_smtputf8=True,
            allow_empty_local=False,
            allow_quoted_local=False,
            allow_domain_literal=False,
            check_deliverability=False,
        )
    except EmailNotValidError:
        return None
    names = (found.ascii_domain, found.domain)
    ascii_domain, unicode_domain = (f"{name[: -len(special)]}{special}" for name in names) if special else names
    return ascii_domain, unicode_domain


def _folded(text: str) -> str:
    # not casefold: it turns "ß" into "ss", which is another mailbox; a final sigma is only a variant of case
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).lower()).replace("\u03c2", "\u03c3")


def _forms(text: str) -> set[str]:
    return {text, unicodedata.normalize("NFC", text), unicodedata.normalize("NFD", text)}


def _several() -> NotOneAddress:
    return NotOneAddress("has more than one address", "put each address in its own row")


def _too_long() -> NotOneAddress:
    return NotOneAddress(f"{_INVALID} (it has more than {MAX_LENGTH} bytes)", "correct it")
