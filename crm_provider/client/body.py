"""Compressed bodies, decompressed in pieces of bounded size."""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Callable, Generator, Iterator
from itertools import chain

ACCEPTED = "gzip"
"""How an answer may be packed (``Accept-Encoding``): what the standard library can unpack piece by piece."""

MOST_MEMBERS = 1000
"""Parts that a packed answer may be put together of: each costs some work, also if nothing is in it."""

CHUNK = 64 * 1024


class BodyRefused(Exception):
    """A body that is not read to its end: the message says why."""


def unpacked(pieces: Iterator[bytes], encoding: str) -> Iterator[bytes]:
    """The pieces of a body, unpacked as its ``Content-Encoding`` says.

    :raises BodyRefused: it cannot be unpacked
    """
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
            yield unpacker.decompress(left, CHUNK)
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
