"""Search for planted texts in bytes, in every encoding."""

from __future__ import annotations

import base64
import gzip
import re
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path


def pattern_of(traces: Iterable[str]) -> re.Pattern[bytes]:
    """A pattern that finds these texts in any case, in hexadecimal and in base64.

    No other encoding (percent, JSON, HTML, ``repr``) changes ASCII letters and digits.
    """
    found: list[bytes] = []
    for trace in traces:
        assert re.fullmatch(r"[A-Za-z0-9]{6,}", trace), "other characters may be encoded in another way"
        found.append(rb"(?i:%s|%s)" % (trace.encode(), trace.encode().hex().encode()))
        for cased in (trace, trace.lower(), trace.upper()):
            found += _in_base64(cased.encode())
    return re.compile(b"|".join(dict.fromkeys(found)))


def _in_base64(data: bytes) -> list[bytes]:
    """The base64 characters of a text at each offset, without those at its ends, which depend on its neighbours."""
    spelled = []
    for before in range(3):
        letters = base64.b64encode(b"\0" * before + data)
        first, last = (8 * before + 5) // 6, 8 * (before + len(data)) // 6
        spelled.append(re.escape(letters[first:last]))
    return spelled


def search(pattern: re.Pattern[bytes], places: Mapping[str, bytes]) -> dict[str, list[str]]:
    """The places of all matches, with the text around them."""
    hits = {name: [*pattern.finditer(data)][:3] for name, data in places.items()}
    return {
        name: [places[name][max(hit.start() - 160, 0) : hit.end() + 60].decode(errors="replace") for hit in found]
        for name, found in hits.items()
        if found
    }


def files_below(folder: Path) -> dict[str, bytes]:
    """All files, uncompressed."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            data = path.read_bytes()
            found[str(path.relative_to(folder))] = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    return found


def columns_of(database: Path) -> dict[str, bytes]:
    """Every column of every table of a SQLite database as ``table.column``, one line per row."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as base:
        base.text_factory = bytes
        tables = [name.decode() for (name,) in base.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        found: dict[str, bytes] = {}
        for table in tables:
            rows = base.execute(f'SELECT * FROM "{table}"')
            names = [column[0] for column in rows.description]
            values = list(rows)
            for n, name in enumerate(names):
                found[f"{table}.{name}"] = b"\n".join(_bytes(row[n]) for row in values)
    return found


def _bytes(value: object) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()
