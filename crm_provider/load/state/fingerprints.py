"""The state file: a keyed fingerprint for each record that was loaded, so that unchanged rows cost no call.

The fingerprints are a table while a load runs, and lines of text between loads. After a header the state file has one
sorted line for each record: 32 hex digits for its key, 32 for its values. The journal beside it has the same lines
in the order of time, with a dash for a record that was forgotten.

The state file holds no address and no value, only hashes under a key that is derived from the API key. Without that key
nobody can test whether an address is in it, and the file of another account matches nothing. A missing entry costs one
call; a wrong one would leave a record unchanged. So a doubtful entry is left out.
"""

from __future__ import annotations

import gzip
import hmac
import json
import logging
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from typing import IO, Any, cast

from crm_provider.client.settings import Settings
from crm_provider.files.journal import Journal
from crm_provider.files.lock import FileLock
from crm_provider.files.paths import AnyPath, atomic_writer, each_line, is_local, read_own, sibling
from crm_provider.files.temp_database import TempDatabase
from crm_provider.load.rows import Record, SourceError

KIND = "crm_provider fingerprints "
TITLE = f"{KIND}1"
"""Begins the header; the number is that of the format."""

SIZE = 16
"""Bytes of a hash: that any two of a million contacts share one has a chance of 1 in 10^26."""

CACHE = 32_000
"""KB of memory for the table; with a million contacts it has 50,000, and they are looked up in any order."""

Entry = tuple[bytes, "bytes | None"]
"""A record's key and its fingerprint, None if it was forgotten."""

_ENTRY = re.compile(r"([0-9a-f]{32}) (?:([0-9a-f]{32})|-)")


class UnreadableError(Exception):
    """The file is damaged, or is another file."""


class OtherKeyError(Exception):
    """The file belongs to another key."""


class PrintTable:
    """On disk, in a temporary database without a name, so that memory stays flat."""

    def __init__(self) -> None:
        self._base = TempDatabase(
            f"PRAGMA cache_size=-{CACHE}; CREATE TABLE seen (key BLOB PRIMARY KEY, print BLOB) WITHOUT ROWID"
        )

    def __len__(self) -> int:
        return int(self._base.execute("SELECT count(*) FROM seen").fetchone()[0])

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._base.execute("SELECT key, print FROM seen ORDER BY key"))

    def get(self, key: bytes) -> bytes | None:
        row = self._base.execute("SELECT print FROM seen WHERE key = ?", (key,)).fetchone()
        return None if row is None else row[0]

    def put(self, found: Iterable[Entry]) -> None:
        """Take in entries, the later ones over the earlier ones."""
        for key, print_ in found:
            if print_ is None:
                self._base.execute("DELETE FROM seen WHERE key = ?", (key,))
            else:
                self._base.execute("INSERT OR REPLACE INTO seen VALUES (?, ?)", (key, print_))

    def clear(self) -> None:
        self._base.execute("DELETE FROM seen")

    def close(self) -> None:
        self._base.close()


def line_of(key: bytes, print_: bytes | None) -> str:
    """An entry as text."""
    return f"{key.hex()} {'-' if print_ is None else print_.hex()}"


def entries(lines: Iterable[str], header: str) -> Iterator[Entry]:
    """The entries of a file or of what is beside it.

    :raises UnreadableError: at a line that is none of ours
    :raises OtherKeyError: if the header is of another key
    """
    lines = iter(lines)
    first = next(lines, header)
    if first != header:
        raise OtherKeyError if first.startswith(f"{TITLE} ") else UnreadableError
    for line in lines:
        found = _ENTRY.fullmatch(line)
        if found is None:
            raise UnreadableError
        yield bytes.fromhex(found[1]), bytes.fromhex(found[2]) if found[2] else None


def lines_of(path: AnyPath) -> Iterator[str]:
    """The lines of a state file, none if it does not exist.

    :raises UnreadableError: if it is no text, or not packed as its name says
    """
    try:
        raw = read_own(path)
    except FileNotFoundError:
        return
    with raw, gzip.GzipFile(fileobj=raw) if _is_packed(path) else nullcontext(raw) as file:
        try:
            for line in each_line(file, path):
                yield line.decode("ascii").removesuffix("\n")
        except (UnicodeDecodeError, EOFError, gzip.BadGzipFile, zlib.error):
            raise UnreadableError from None


def write_state(path: AnyPath, header: str, table: PrintTable) -> None:
    """Replace a state file."""
    with atomic_writer(path, "wb") as file:
        target = gzip.GzipFile("", "wb", fileobj=file, mtime=0) if _is_packed(path) else file
        target.write(f"{header}\n".encode())
        for key, print_ in table:
            target.write(f"{line_of(key, print_)}\n".encode())
        if target is not file:
            cast(IO[bytes], target).close()


def _is_packed(path: AnyPath) -> bool:
    return path.suffix.lower() == ".gz"


log = logging.getLogger(__name__)


def secret_for(settings: Settings) -> bytes:
    """The key of a connection's fingerprints.

    Another API key, CRM or mode has another one: what was sent in developer mode must not count as loaded.
    """
    place = f"crm_provider fingerprints\n{settings.base_url}\n{settings.developer_mode}"
    return hmac.digest(settings.api_key.encode(), place.encode(), "sha256")


class Fingerprints:
    """The fingerprints of one state file.

    Used by one thread, and by one run at a time: on a local disk a second run is refused until :meth:`close`. On an
    object store there is no lock: let the runs that share a state file follow each other (``max_active_runs=1``).

    Forget a record before its first call and remember it after its success: then a kill between the two leaves no
    fingerprint of values that the CRM may no longer have (on an object store: from :meth:`sync` on).

    :param path: of the state file; packed with gzip for the suffix ``.gz``
    :param secret: see :func:`secret_for`
    :param effect: what else decides what a row does to its record, such as ``{"list_ids": [...]}``; JSON-able
    """

    def __init__(self, path: AnyPath, secret: bytes, *, effect: Mapping[str, Any] | None = None) -> None:
        self.path = path
        self._secret = secret
        self._effect = json.dumps(effect or {}, sort_keys=True)
        self._header = f"{TITLE} {self._hash('check').hex()[:16]}"
        self._journal = Journal(sibling(path, ".journal"))
        lock = sibling(path, ".lock")
        self._lock = FileLock(lock, f"the state file {path.name}") if is_local(lock) else None
        self._table: PrintTable | None = None
        self._journal_is_ours: bool  # known once it has been read

    def unchanged(self, record: Record) -> bool:
        """Whether the record was loaded before with the same values."""
        return self._loaded().get(self._key(record)) == self._print(record)

    def remember(self, record: Record) -> None:
        """The CRM has the record with these values."""
        key, print_ = self._key(record), self._print(record)
        if self._loaded().get(key) != print_:
            self._note(key, print_)

    def forget(self, record: Record) -> None:
        """Forget a record: a call for it is about to be made, or the outcome of one is not known."""
        key = self._key(record)
        if self._loaded().get(key) is not None:
            self._note(key, None)

    def __len__(self) -> int:
        return len(self._loaded())

    # -- files -----------------------------------------------------------------------------------------------

    def load(self) -> None:
        """Read the state file and what unfinished runs have left beside it. Without it the first use does.

        :raises SourceError: if another run uses the state file
        """
        self._loaded()

    def sync(self) -> None:
        """After this, what was remembered and forgotten survives anything."""
        self._journal.sync()

    def finish(self) -> None:
        """Write the state file anew, in one step, and close."""
        write_state(self.path, self._header, self._loaded())
        self._journal.clear()
        self.close()

    def close(self) -> None:
        """Sync, and let other runs use the state file. What is not in it yet is beside it and will be read.

        :raises CannotWrite: it is closed all the same
        """
        table, self._table = self._table, None
        try:
            if table is not None:
                table.close()
                self._journal.sync()
        finally:
            if self._lock is not None:
                self._lock.release()

    # -- helpers ---------------------------------------------------------------------------------------------

    def _key(self, record: Record) -> bytes:
        return self._hash("key", record.key)

    def _print(self, record: Record) -> bytes:
        values = json.dumps(record.effect, sort_keys=True, default=repr)
        return self._hash("print", values, self._effect)

    def _hash(self, *texts: str) -> bytes:
        return hmac.digest(self._secret, json.dumps(texts).encode(), "sha256")[:SIZE]

    def _note(self, key: bytes, print_: bytes | None) -> None:
        table = self._loaded()
        if not self._journal_is_ours:
            self._journal.clear()
            self._journal.append(self._header)
            self._journal_is_ours = True
        self._journal.append(line_of(key, print_))
        table.put([(key, print_)])

    def _loaded(self) -> PrintTable:
        if self._table is None:
            if self._lock is not None:
                self._lock.acquire()
            table = PrintTable()
            try:
                self._read_state(table)
                self._read_journal(table)
            except BaseException:
                table.close()
                raise
            self._table = table
        return self._table

    def _check_own(self) -> None:
        """Never replace a file that is something else, such as the source.

        :raises SourceError: if it does not begin as a state file
        """
        if self.path.suffix.lower() == ".gz" or not self.path.exists():
            return
        with read_own(self.path) as file:
            begin = file.read(len(KIND))
        if begin and begin != KIND.encode():
            raise SourceError(
                f"{self.path.name} would be overwritten, but it is no state file of a load; remove it, or give another "
                "state_path"
            )

    def _read_state(self, table: PrintTable) -> None:
        self._check_own()
        try:
            table.put(entries(lines_of(self.path), self._header))
        except OtherKeyError:
            table.clear()
            log.info("The state file %s belongs to another API key or connection: all rows are sent once.", self.path)
        except UnreadableError:
            table.clear()
            log.warning("The state file %s cannot be read and counts as empty: all rows are sent once.", self.path)

    def _read_journal(self, table: PrintTable) -> None:
        """Read what unfinished runs have added. If it cannot be used, nobody knows what they have forgotten."""
        self._journal_is_ours = False
        try:
            table.put(entries(self._journal.lines(), self._header))
            self._journal_is_ours = any(True for _ in self._journal.lines())
        except (OtherKeyError, UnreadableError, UnicodeDecodeError):
            table.clear()
            log.warning("The journal beside the state file %s is of another one: all rows are sent once.", self.path)
