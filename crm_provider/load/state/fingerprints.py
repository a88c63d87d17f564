"""The state file: a keyed fingerprint for each record that was loaded, so that unchanged rows cost no call.

The fingerprints are a table while a load runs, and lines of text between loads. After a header the state file has one
sorted line for each record: 32 hex digits for its key, 32 for its values. The journal beside it has the same lines
in chronological order, with a dash for a forgotten record.

The state file holds no address and no value, only hashes under a key that is derived from the API key. Without that key
nobody can test whether an address is in it, and the file of another account matches nothing. A missing entry costs one
call. A wrong entry would leave a record unchanged, so doubtful entries are left out.
"""

from __future__ import annotations

import hmac
import json
import logging
from collections.abc import Mapping
from itertools import chain, starmap
from typing import Any

from crm_provider.client.settings import Settings
from crm_provider.files.fingerprints import (
    SIZE,
    OtherKeyError,
    PrintTable,
    UnreadableError,
    entries,
    line_of,
    lines_of,
    write_lines,
)
from crm_provider.files.journal import Journal
from crm_provider.files.lock import FileLock
from crm_provider.files.paths import AnyPath, is_local, read_own, sibling
from crm_provider.load.rows import Record, SourceError

KIND = "crm_provider fingerprints "
TITLE = f"{KIND}1"
"""Start of the header; the number is the version of the format."""

log = logging.getLogger(__name__)

_EFFECT = json.JSONEncoder(sort_keys=True, default=repr)
"""Created once, because ``json.dumps`` with options creates an encoder for each call."""


def secret_for(settings: Settings) -> bytes:
    """The key of a connection's fingerprints.

    It differs for each API key, CRM and mode: records that were sent in developer mode must not count as loaded.
    """
    return settings.derived_secret("crm_provider fingerprints")


def write_state(path: AnyPath, header: str, table: PrintTable) -> None:
    """Replace a state file."""
    write_lines(path, chain([header], starmap(line_of, table)))


class Fingerprints:
    """The fingerprints of one state file.

    Used by one thread, and by one run at a time: on a local disk a second run is refused until :meth:`close`. On an
    object store there is no lock: runs that share a state file must not overlap (``max_active_runs=1``).

    Forget the records to send and :meth:`sync` before the first call, and remember each after its success: then no
    failure in between leaves a fingerprint of values that the CRM may no longer have.

    :param path: of the state file; packed with gzip for the suffix ``.gz``
    :param secret: see :func:`secret_for`
    :param effect: options that change the effect of a row on its record, such as ``{"list_ids": [...]}``; JSON values
    """

    def __init__(self, path: AnyPath, secret: bytes, *, effect: Mapping[str, Any] | None = None) -> None:
        self.path = path
        self._secret = secret
        self._effect = json.dumps(effect or {}, sort_keys=True)
        self._header = f"{TITLE} {self._hash('check').hex()[:16]}"
        self._journal = Journal(sibling(path, ".journal"))
        lock = sibling(path, ".lock")
        self._lock = FileLock(lock, f"the state file {path}") if is_local(lock) else None
        self._table: PrintTable | None = None
        self._journal_is_ours: bool  # set once the file was read

    def unchanged(self, record: Record) -> bool:
        """Whether the record was loaded before with the same values."""
        return self._loaded().get(self._key(record)) == self._print(record)

    def remember(self, record: Record) -> None:
        """Record that the CRM has the record with these values."""
        key, print_ = self._key(record), self._print(record)
        if self._loaded().get(key) != print_:
            self._note(key, print_)

    def forget(self, record: Record) -> None:
        """Forget a record: a call for it follows, or the outcome of one is unknown."""
        key = self._key(record)
        if self._loaded().get(key) is not None:
            self._note(key, None)

    def __len__(self) -> int:
        return len(self._loaded())

    # -- files -----------------------------------------------------------------------------------------------

    def load(self) -> None:
        """Read the state file and the journal of unfinished runs. Otherwise the first use reads them.

        :raises SourceError: if another run uses the state file
        """
        self._loaded()

    def sync(self) -> None:
        """Save all changes, so that they survive any failure."""
        self._journal.sync()

    def finish(self) -> None:
        """Replace the state file atomically, and close."""
        write_state(self.path, self._header, self._loaded())
        self._journal.clear()
        self.close()

    def close(self) -> None:
        """Sync, and release the state file. Changes that are not in it yet are in its journal, which is read later.

        :raises CannotWrite: it is closed nevertheless
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
        return self._hash("print", _EFFECT.encode(record.effect), self._effect)

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

        :raises SourceError: if it does not start like a state file
        """
        if self.path.suffix.lower() == ".gz" or not self.path.exists():
            return
        with read_own(self.path) as file:
            begin = file.read(len(KIND))
        if begin and begin != KIND.encode():
            raise SourceError(
                f"{self.path} would be overwritten, but it is not a state file; remove it, or give another state_path"
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
        """Read the changes of unfinished runs. If they are unusable, it is unknown which records were forgotten."""
        self._journal_is_ours = False
        try:
            table.put(entries(self._journal.lines(), self._header))
            self._journal_is_ours = any(True for _ in self._journal.lines())
        except (OtherKeyError, UnreadableError, UnicodeDecodeError):
            table.clear()
            log.warning("The journal beside the state file %s is of another one: all rows are sent once.", self.path)
