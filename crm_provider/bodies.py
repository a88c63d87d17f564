"""The body of an answer, packed or not: never more of it than an answer of the API can be."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import requests

MAX_BODY = 10 * 1024 * 1024
"""Bytes, unpacked. The largest answer of the API is a page of ten records."""

ACCEPTED = "gzip"
"""How an answer may be packed (``Accept-Encoding``): what the standard library can unpack piece by piece."""

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
    pieces = response.raw.stream(_CHUNK, decode_content=False)
    try:
        for piece in _unpacked(pieces, response.headers.get("Content-Encoding", "")):
            body += piece
            if len(body) > MAX_BODY:
                raise BodyRefused(f"the answer is larger than {MAX_BODY // 1024 // 1024} MB")
    except ValueError:  # of http.client, on a piece of less than no bytes
        raise BodyRefused("the answer comes in pieces that make no sense") from None
    return bytes(body)


def _unpacked(pieces: Iterable[bytes], encoding: str) -> Iterator[bytes]:
    packed = encoding.strip().lower()
    if packed in ("", "identity"):
        return iter(pieces)
    if packed in ("gzip", "x-gzip"):
        return _unzipped(pieces)
    raise BodyRefused("the answer is packed in a way that nobody asked for")


def _unzipped(pieces: Iterable[bytes]) -> Iterator[bytes]:
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16)  # 16: gzip
    left, begun = b"", False
    try:
        for piece in pieces:
            left, begun = left + piece, True
            while left and not unpacker.eof:
                yield unpacker.decompress(left, _CHUNK)
                left = unpacker.unconsumed_tail
        yield unpacker.flush()
    except zlib.error:
        raise BodyRefused("the answer cannot be unpacked") from None
    if begun and not unpacker.eof:
        raise BodyRefused("the answer cannot be unpacked: it is cut off")
