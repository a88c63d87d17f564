"""What logs show: texts without secrets and the values of rows, shortened, and in lines for Airflow's log view."""

from __future__ import annotations

import base64
import html
import json
import re
import textwrap
from collections.abc import Iterable, Iterator
from urllib.parse import quote, quote_plus

WIDTH, PREFIX = 110, 32
"""Characters of a line in Airflow's log view at 1,280 pixels, and of the prefix that it adds to the first line."""

SHORTENED = 200
"""Characters of an unknown body that a message may show."""

SHORTEST_VALUE = 3
"""Minimum characters of a value. Shorter ones are parts of ordinary words and stay."""

SHORTEST_WORD, SHORTEST_OF_ADDRESS = 4, 6
"""Minimum characters of a word of a name, and of an address, that is removed if it stands alone."""

MOST_WORDS = 6
"""Maximum words of a value whose single words are removed, as for names. One word does not identify a longer text."""

SHORT_WORD = 6
"""Maximum letters of a value that is removed only as a whole word: ``Err`` is a part of ``error``."""

SHORTEST_CODE = 16
"""Minimum characters of base64 or hexadecimal text that is decoded and checked."""

LONG = 500
"""Minimum characters of a value that is searched without a regular expression: compiling one takes a second for each
hundred thousand characters."""

PHONE_DIGITS = 7
"""Digits at the end of a phone number that identify it, in any format."""

SECRET_PART = 8
"""Consecutive characters of a secret that are removed anywhere."""


class Secret(str):
    """A text that ``repr`` does not show, such as an API key: error trackers record the ``repr`` of local variables.

    :func:`without_values` removes parts of it, too.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


def cut(text: str) -> str:
    """A text in one line, without control characters, of at most :data:`SHORTENED` characters."""
    text = " ".join(_printable(text).split())
    return text if len(text) <= SHORTENED else f"{text[:SHORTENED]}..."


def for_log(text: str) -> str:
    """A text as one record of Airflow's log view, which cuts long lines."""
    return wrapped(text, first=" " * PREFIX)[PREFIX:]


def wrapped(text: str, *, first: str = "", others: str = "") -> str:
    """Lines of at most :data:`WIDTH` characters; a URL, an id or a path stays whole.

    :param first: what the first line begins with
    :param others: what all other lines begin with
    """
    return textwrap.fill(
        text, WIDTH, initial_indent=first, subsequent_indent=others, break_long_words=False, break_on_hyphens=False
    )


def private_path(path: str) -> str:
    """A path without the parts that are personal data or secrets."""
    return PRIVATE_PATH.sub(r"\1...", path)


def without_values(text: str, sent: Iterable[str], *, in_parts: bool = True) -> str:
    """A text without the values that were sent and without anything that looks like an email address.

    A value is found as it was sent and as URL, JSON, HTML and ``repr`` spell it, in upper and lower case. The last
    digits of a phone number are enough. All text in base64 or hexadecimal is removed.

    :param in_parts: also remove the two sides of an address and the words of a name if they stand alone
    """
    sent = tuple(sent)
    for secret in (value for value in sent if isinstance(value, Secret)):
        text = _without_parts_of(secret, text)
    values = [value for value in dict.fromkeys(sent) if len(value) >= SHORTEST_VALUE]
    whole = {spelling for value in values for spelling in _spellings(value)}
    found = {part for value in values for part in _parts(value)} if in_parts else set()
    parts = {spelling for part in found for spelling in _spellings(part)}
    text = _long_taken_out(text, sorted((one for one in whole if len(one) > LONG), key=len, reverse=True))
    short = sorted((one for one in whole if len(one) <= LONG), key=len, reverse=True)
    text = _taken_out(text, (re.escape(one) for one in short if not one.isalnum()))
    text = _EMAIL.sub("[email]", text)  # before parts of it are removed
    text = _taken_out(text, (_pattern(one) for one in short if one.isalnum()))  # a word may be a part of an address
    text = _CODE.sub(_without_hidden_text, text)
    text = _taken_out(text, (_as_phone(value) for value in values if _PHONE.fullmatch(value)))
    return _taken_out(text, (f"{_ALONE}{re.escape(part)}(?!\\w)" for part in sorted(parts, key=len, reverse=True)))


# -- helpers ------------------------------------------------------------------------------------------------

_EMAIL = re.compile(r"(?<![^\s\"'<>@,;:()\[\]{}])[^\s\"'<>@,;:()\[\]{}]+(?:@|%40)[^\s\"'<>@,;:()\[\]{}]+")

PRIVATE_PATH = re.compile(r"(/(?:contacts|add-contact|email-verification|webhook)/)(?!\{)[^\s\"?]+")

_ESCAPED = r"(?<=%[0-9a-f]{2})|(?<=%25[0-9a-f]{2})|(?<=\\u[0-9a-f]{4})|(?<=\\x[0-9a-f]{2})|(?<=\\[nrt])"

_LATIN = "[A-Za-z\u00c0-\u024f]"

_ALONE = rf"(?:(?<!\w)|{_ESCAPED})"
"""The start of a word, possibly after an escaped space or quote."""

_CODE = re.compile(rf"[A-Za-z0-9+/_-]{{{SHORTEST_CODE},}}")

_HEX = re.compile(r"[0-9A-Fa-f]+")

_PHONE = re.compile(rf"\+?(?:[\s().-]*\d){{{PHONE_DIGITS},15}}")


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)


def _taken_out(text: str, patterns: Iterable[str]) -> str:
    pattern = "|".join(patterns)
    return re.sub(pattern, "[value]", text, flags=re.IGNORECASE) if pattern else text


def _pattern(word: str) -> str:
    """A word of letters and digits. A short one is found only without a Latin letter beside it.

    A digit or an underscore ends a word, as in ``name_Ann``, and so do an escaped character and a letter of a script
    that is written without spaces. A word with a digit or a letter beyond ASCII is found anywhere.
    """
    if len(word) > SHORT_WORD or not (word.isascii() and word.isalpha()):
        return re.escape(word)
    return f"(?:(?<!{_LATIN})|{_ESCAPED}){word}(?!{_LATIN})"


def _long_taken_out(text: str, spellings: Iterable[str]) -> str:
    lowered = text.lower()
    if len(lowered) != len(text):  # a few letters become two in lower case
        text = lowered
    for spelling in map(str.lower, spellings):
        while (at := lowered.find(spelling)) >= 0:
            end = at + len(spelling)
            text = f"{text[:at]}[value]{text[end:]}"
            lowered = f"{lowered[:at]}[value]{lowered[end:]}"
    return text


def _without_parts_of(secret: str, text: str) -> str:
    """A text without any :data:`SECRET_PART` consecutive characters of a secret, in upper or lower case."""
    parts = {
        spelling[at : at + SECRET_PART].lower()
        for spelling in {secret, quote(secret, safe="")}
        for at in range(len(spelling) - SECRET_PART + 1)
    }
    shown: list[str] = []
    end = 0
    for at in range(len(text)):
        if text[at : at + SECRET_PART].lower() in parts:
            if at >= end:
                shown += [text[end:at], "[value]"]
            end = at + SECRET_PART
    return "".join([*shown, text[end:]])


def _spellings(value: str) -> Iterator[str]:
    """How a server may spell a value that it repeats."""
    data = value.encode(errors="surrogatepass")
    yield value
    yield from (quote(data, safe=""), quote(data), quote_plus(data), quote(quote(data, safe=""), safe=""))
    yield json.dumps(value)[1:-1]
    yield from (repr(value)[1:-1], repr(data)[2:-1])
    yield from (html.escape(value), html.escape(value, quote=False))


def _parts(value: str) -> Iterator[str]:
    """The two sides of an address, the words of a name. Words of letters and digits are the same in every spelling."""
    local, at, domain = value.rpartition("@")
    words = re.findall(r"\w+", value)
    if at:
        yield from (side for side in (local, domain) if len(side) >= SHORTEST_WORD)
        yield from (word for word in words if len(word) >= SHORTEST_OF_ADDRESS)
    elif 1 < len(words) <= MOST_WORDS:
        yield from (word for word in words if len(word) >= SHORTEST_WORD)


def _without_hidden_text(code: re.Match[str]) -> str:
    """A placeholder for a code that decodes to text. The code may begin after a few letters of something else."""
    found = code[0]
    for start in range(4):
        rest = found[start:].rstrip("=").replace("-", "+").replace("_", "/")
        decoded = base64.b64decode(rest[: len(rest) // 4 * 4])
        if _is_text(decoded):
            return "[value]"
    digits = found[: len(found) // 2 * 2]
    return "[value]" if _HEX.fullmatch(digits) and _is_text(bytes.fromhex(digits)) else found


def _is_text(data: bytes) -> bool:
    try:
        return len(data) >= SHORTEST_CODE // 2 and data.decode().isprintable()
    except UnicodeDecodeError:
        return False


def _as_phone(value: str) -> str:
    """A pattern for the last digits of a number and the characters between them, bounded for hostile bodies."""
    gap = r"[\s().-]{0,3}"
    digits = re.sub(r"\D", "", value)[-PHONE_DIGITS:]
    return rf"[+(]?(?:\d{gap}){{0,8}}{gap.join(digits)}"
