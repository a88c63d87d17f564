"""The body of an answer: its bytes and its JSON.

The body of an answer, packed or not: never more of it than an answer of the API can be.

The JSON of an answer as Python values that can be kept, compared, written and sent on.
"""

from __future__ import annotations

import json
import math
import re
import zlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from decimal import Decimal
from itertools import chain
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import requests


MAX_BODY = 10 * 1024 * 1024
"""Bytes, as they come and unpacked. The largest answer of the API is a page of ten records."""

ACCEPTED = "gzip"
"""How an answer may be packed (``Accept-Encoding``): what the standard library can unpack piece by piece."""

MOST_MEMBERS = 1000
"""Parts that a packed answer may be put together of: each costs some work, also if nothing is in it."""

_CHUNK = 64 * 1024


class BodyRefused(Exception):
    """A body that is not read to its end: the message says why."""


def whole_body(response: requests.Response) -> bytes:
    """Read an answer to its end.

    It is unpacked here, piece by piece: ``requests`` unpacks whatever is packed, and all at once, before it can be
    measured.

    :raises BodyRefused: it is too large, or cannot be unpacked
    """
    body = bytearray()
    pieces = _measured(response.raw.stream(_CHUNK, decode_content=False))
    try:
        for piece in _unpacked(pieces, response.headers.get("Content-Encoding", "")):
            body += piece
            _check_size(len(body))
    except zlib.error:
        raise BodyRefused("the answer cannot be unpacked") from None
    except ValueError:  # of http.client, on a piece of less than no bytes
        raise BodyRefused("the answer comes in pieces that make no sense") from None
    return bytes(body)


def _check_size(size: int) -> None:
    if size > MAX_BODY:
        raise BodyRefused(f"the answer is larger than {MAX_BODY // 1024 // 1024} MB")


def _measured(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The pieces that hold something, as long as they are not too much."""
    size = 0
    for piece in pieces:
        size += len(piece)
        _check_size(size)
        if piece:
            yield piece


def _unpacked(pieces: Iterator[bytes], encoding: str) -> Iterator[bytes]:
    first = next(pieces, None)
    if first is None:  # in nothing there is nothing to unpack, whatever the header says
        return
    # what is no name of a compression (``identity``, ``utf-8``) says nothing about the bytes
    packed = [name for name in (part.strip().lower() for part in encoding.split(",")) if name in _COMPRESSIONS]
    unpack = _COMPRESSIONS[packed[0]] if len(packed) == 1 else None
    if packed and unpack is None:
        raise BodyRefused("the answer is packed in a way that nobody asked for")
    whole = chain([first], pieces)
    yield from unpack(whole) if unpack else whole


_GZIP_BEGINS = b"\x1f\x8b"


def _unzipped(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Of gzip, all members; what is behind the last is none of the answer."""
    behind = yield from _member(b"", pieces, zlib.MAX_WBITS | 16)
    for _ in range(MOST_MEMBERS):
        behind = _two_bytes(behind, pieces)
        if not behind.startswith(_GZIP_BEGINS):
            return _skip(pieces)
        behind = yield from _member(behind, pieces, zlib.MAX_WBITS | 16)
    raise BodyRefused(f"the answer is packed in more than {MOST_MEMBERS} parts")


def _inflated(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Of deflate: in the format of zlib, as the standard says, or without it, as some servers understood that."""
    start = _two_bytes(b"", pieces)
    is_zlib = start[0] & 0x0F == zlib.DEFLATED and int.from_bytes(start[:2], "big") % 31 == 0
    yield from _member(start, pieces, zlib.MAX_WBITS if is_zlib else -zlib.MAX_WBITS)
    _skip(pieces)


_COMPRESSIONS: dict[str, Callable[[Iterator[bytes]], Iterator[bytes]] | None] = {
    "gzip": _unzipped,
    "x-gzip": _unzipped,
    "deflate": _inflated,
    **dict.fromkeys(("br", "zstd", "compress", "x-compress", "dcb", "dcz")),
}
"""What an answer may be packed with, and how it is unpacked, None where the standard library cannot."""


def _member(start: bytes, pieces: Iterator[bytes], bits: int) -> Generator[bytes, None, bytes]:
    """One packed text; returns what was read of the bytes behind it.

    :param start: what was read of it already
    :param bits: of zlib, for the format
    """
    unpacker = zlib.decompressobj(bits)
    for piece in chain([start], pieces):
        left = piece
        while left and not unpacker.eof:
            yield unpacker.decompress(left, _CHUNK)
            left = unpacker.unconsumed_tail
        if unpacker.eof:
            return unpacker.unused_data
    yield unpacker.flush()
    if not unpacker.eof:
        raise BodyRefused("the answer cannot be unpacked: it is cut off")
    return b""


def _two_bytes(start: bytes, pieces: Iterator[bytes]) -> bytes:
    """What begins so, read on to at least two bytes if there are as many."""
    while len(start) < 2 and (piece := next(pieces, b"")):
        start += piece
    return start


def _skip(pieces: Iterator[bytes]) -> None:
    """Read on without keeping anything: a connection that is read to its end can be used again."""
    deque(pieces, maxlen=0)


MAX_NESTING = 100
"""Levels of objects and lists in a success; records have three. What is deeper breaks whoever walks through it."""

UNREADABLE = object()
"""Stands for a body that is no JSON."""


def parsed_body(body: bytes) -> Any:
    """The body as JSON, as far as Python can read it; None if it is empty, :data:`UNREADABLE` if it is no JSON."""
    if not body.strip():
        return None
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return UNREADABLE


def content_of(body: bytes, *, use_decimal: bool) -> Any:
    """As :func:`parsed_body`, for who goes on with it: every number is one, every text can be written somewhere."""
    if not body.strip():
        return None
    try:
        found = json.loads(body, parse_float=Decimal if use_decimal else _finite, parse_constant=_finite)
    except (ValueError, ArithmeticError, RecursionError):
        return UNREADABLE
    if body.count(b"{") + body.count(b"[") > MAX_NESTING and is_too_deep(found):
        return UNREADABLE
    return _whole_characters(found) if _HALF_CHARACTER.search(body) else found


def is_too_deep(value: Any) -> bool:
    """Whether there are more than :data:`MAX_NESTING` levels of objects and lists in a JSON value."""
    level, depth = [value], 0
    while level and depth <= MAX_NESTING:
        inner = (item.values() if isinstance(item, dict) else item for item in level if isinstance(item, (dict, list)))
        level, depth = [item for items in inner for item in items], depth + 1
    return bool(level)


# -- helpers ------------------------------------------------------------------------------------------------


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("no number of JSON, or too large for one")
    return number


_HALF_CHARACTER = re.compile(rb"\\u[dD][89a-fA-F]|\xed[\xa0-\xbf]|\0")
"""How half a surrogate pair may look in JSON; whole ones and UTF-16 too."""


def _whole_characters(value: Any) -> Any:
    """Halves of characters put together or, where the other half is cut off, replaced: nothing can be made of them."""
    if isinstance(value, str):
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if isinstance(value, list):
        return [_whole_characters(item) for item in value]
    if isinstance(value, dict):
        return {_whole_characters(name): _whole_characters(item) for name, item in value.items()}
    return value
