"""Compressed bodies, decompressed in pieces of bounded size."""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Callable, Generator, Iterator
from itertools import chain

ACCEPTED = "gzip"
"""The compression that requests accept (``Accept-Encoding``): the standard library decompresses it in pieces."""

MOST_MEMBERS = 1000
"""Members of a gzip body at most: each costs some work, even if it is empty."""

CHUNK = 64 * 1024


class BodyRefused(Exception):
    """A body that is not read to its end. The message says why."""


def decompressed(pieces: Iterator[bytes], encoding: str) -> Iterator[bytes]:
    """The pieces of a body, decompressed according to its ``Content-Encoding``.

    :raises BodyRefused: if it cannot be decompressed
    """
    first = next(pieces, None)
    if first is None:  # an empty body needs no decompression, whatever the header says
        return
    # other names (``identity``, ``utf-8``) are not compressions
    names = [name for name in (part.strip().lower() for part in encoding.split(",")) if name in _COMPRESSIONS]
    decompress = _COMPRESSIONS[names[0]] if len(names) == 1 else None
    if names and decompress is None:
        raise BodyRefused("the response has a compression that was not requested")
    whole = chain([first], pieces)
    yield from decompress(whole) if decompress else whole


_GZIP_BEGINS = b"\x1f\x8b"


def _gunzipped(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """All members of a gzip body. Bytes after the last member are ignored."""
    rest = yield from _member(b"", pieces, zlib.MAX_WBITS | 16)
    for _ in range(MOST_MEMBERS):
        rest = _two_bytes(rest, pieces)
        if not rest.startswith(_GZIP_BEGINS):
            return _skip(pieces)
        rest = yield from _member(rest, pieces, zlib.MAX_WBITS | 16)
    raise BodyRefused(f"the response has more than {MOST_MEMBERS} gzip members")


def _inflated(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """A deflate body: in zlib format, as the standard says, or raw, as some servers send it."""
    start = _two_bytes(b"", pieces)
    is_zlib = start[0] & 0x0F == zlib.DEFLATED and int.from_bytes(start[:2], "big") % 31 == 0
    yield from _member(start, pieces, zlib.MAX_WBITS if is_zlib else -zlib.MAX_WBITS)
    _skip(pieces)


_COMPRESSIONS: dict[str, Callable[[Iterator[bytes]], Iterator[bytes]] | None] = {
    "gzip": _gunzipped,
    "x-gzip": _gunzipped,
    "deflate": _inflated,
    **dict.fromkeys(("br", "zstd", "compress", "x-compress", "dcb", "dcz")),
}
"""Compressions by name, and how to undo them; None if the standard library cannot."""


def _member(start: bytes, pieces: Iterator[bytes], bits: int) -> Generator[bytes, None, bytes]:
    """One compressed member; returns the bytes that were read beyond its end.

    :param start: bytes of it that were read already
    :param bits: zlib's ``wbits``, which select the format
    """
    decompressor = zlib.decompressobj(bits)
    for piece in chain([start], pieces):
        rest = piece
        while rest and not decompressor.eof:
            yield decompressor.decompress(rest, CHUNK)
            rest = decompressor.unconsumed_tail
        if decompressor.eof:
            return decompressor.unused_data
    yield decompressor.flush()
    if not decompressor.eof:
        raise BodyRefused("the response cannot be decompressed: it is cut off")
    return b""


def _two_bytes(start: bytes, pieces: Iterator[bytes]) -> bytes:
    """The start, extended to at least two bytes if the body has as many."""
    while len(start) < 2 and (piece := next(pieces, b"")):
        start += piece
    return start


def _skip(pieces: Iterator[bytes]) -> None:
    """Read to the end and discard: only then can the connection be used again."""
    deque(pieces, maxlen=0)
