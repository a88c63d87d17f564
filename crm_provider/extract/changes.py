"""Changes since the last run: what was created, changed or removed, found by fingerprints in a state file.

The API has neither a filter nor a change feed. So a run reads the whole listing and compares each record with the
fingerprint of the last run. The state file holds ids in plain text, because only the id of a removed record is known.
It holds no value: a fingerprint is a hash under a key that is derived from the API key.

The file also holds the listing before its last run. If the same task instance runs again, because it was retried,
killed or cleared, it compares with that one. So its output is complete, even if the first output was lost.

A table of many runs needs more. Each version of the state file has a number, and the mark of a run names its task
instance and the version that it has read. So all rows with one mark are changes since the same version. ``.pending``
beside the state file names the runs that may have written their rows but did not replace the state file. The next run
reports their changes again and replaces their rows.
"""

from __future__ import annotations

import hmac
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from itertools import chain
from types import TracebackType
from typing import TYPE_CHECKING, Any

from crm_provider import errors as e
from crm_provider.client.pagination import LISTINGS, Listing, Record, id_of
from crm_provider.client.settings import Settings
from crm_provider.extract.partial_pages import Owner
from crm_provider.extract.writers import CHANGE
from crm_provider.files.fingerprints import (
    SIZE,
    Entry,
    OtherKeyError,
    PrintTable,
    UnreadableError,
    entries,
    line_of,
    lines_of,
    write_lines,
)
from crm_provider.files.lock import FileLock
from crm_provider.files.paths import AnyPath, atomic_writer, is_local, read_own, remove, sibling
from crm_provider.values.counted import counted
from crm_provider.values.json_values import json_text

if TYPE_CHECKING:
    from typing_extensions import Self

log = logging.getLogger(__name__)

TITLE = "crm_provider changes 1"
"""Start of the header; the number is the version of the format."""

BEFORE = "before"
"""Separates the entries from those that restore the listing before the last run."""

END = "end"
"""The last line: a file without it was cut off."""

PENDING = ".pending"
"""Suffix of the file that names runs."""

LARGEST_PENDING = 1 << 20
"""Maximum bytes of it that are read."""


class ChangeTracker:
    """Compares the records of one run with those of the last one. Used as a context, by one run at a time.

    On an object store there is no lock: runs that share a state file must not overlap (``max_active_runs=1``).

    :param path: of the state file; packed with gzip for the suffix ``.gz``
    :param owner: the task instance
    :param merges: whether the output keeps what an earlier try of the task instance has written. Then a try that
        follows a complete one also reports what has changed since that one
    :ivar counts: changes of each kind, and ``unconfirmed``: missing records that may still be there
    """

    run: str
    """The mark of the rows of this run; known once the state file was read."""

    def __init__(
        self, path: AnyPath, settings: Settings, listing: Listing, owner: Owner, *, merges: bool = False
    ) -> None:
        self.path, self._listing, self._work, self._merges = path, listing, owner.mark, merges
        self._secret = settings.derived_secret("crm_provider changes")
        self._place = self._hash("place", settings.base_url, str(settings.developer_mode), key=b"").hex()
        self._header = f"{TITLE} {self._hash('check').hex()}"
        self._open = ExitStack()
        self.counts: Counter[str] = Counter()
        self._last_work: Any = None
        self._version = 0
        self._pending: list[str] = []
        self._repeats = False
        """Whether the output has what an earlier try of this task instance has written."""

    def __enter__(self) -> Self:
        """Lock and read the state file.

        :raises InUse: if another run uses it
        :raises CrmInvalidValueError: if it is damaged or of another listing, so that the changes would be wrong
        """
        with ExitStack() as opening:
            if is_local(lock := sibling(self.path, ".lock")):
                held = FileLock(lock, f"the state file {self.path}")
                held.acquire()
                opening.callback(held.release)
            self._old, self._new, self._written = PrintTable(), PrintTable(), PrintTable()
            for table in (self._old, self._new, self._written):
                opening.callback(table.close)
            self._same_key = self._load()
            self._open = opening.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def changes(self, records: Iterable[Record], view: Callable[[Record], Any], *, quiet: bool) -> Iterator[Record]:
        """The records that were created or changed, and the ids of those that were removed, with :data:`CHANGE`.

        :param view: the part of a record in the output; other changes do not count
        :param quiet: whether the listing did not change while it was read. Otherwise a missing record may have moved to
            a page that was read before, and is reported as removed only by a quiet run
        :raises CrmProtocolError: if a record has no id
        """
        known = False
        for record in records:
            key, print_ = self._key(record), self._print(view(record))
            before = self._old.get(key)
            self._new.put([(key, print_)])
            known |= before is not None
            if before != print_ or (self._repeats and self._written.get(key) != print_):
                yield self._changed(record, "created" if before is None else "updated")
        if not self._same_key and not known and len(self._old):
            raise self._wrong("contains no record of this account", "give another state_path for another account")
        for key, last in chain(self._missing(), self._missing_since()):
            if quiet:
                yield self._changed({"id": key.decode(errors="surrogatepass")}, "deleted")
            else:
                self.counts["unconfirmed"] += 1
                self._new.put([(key, last)])

    def announce(self) -> tuple[str, ...]:
        """Record that this run is about to complete its output.

        :return: the marks of the runs whose output this one replaces: this one, those that recorded it but did not
            replace the state file, and the latest one if this run compares with the listing before it
        """
        pending = tuple(dict.fromkeys([self.run, *self._pending]))
        with atomic_writer(sibling(self.path, PENDING)) as file:
            json.dump({"version": self._version, "runs": pending}, file)
        if self._replaces_last:
            log.info("The rows replace those of the latest run: they are what has changed since the run before it.")
            return (*pending, self._last_run)
        log.info("The rows are what has changed since the latest run. Older rows of this task instance stay.")
        return pending

    def commit(self) -> None:
        """Replace the state file: the output is complete."""
        about = json.dumps(
            {"listing": self._listing, "place": self._place, "work": self._work, "version": self._version + 1}
        )
        now = (line_of(key, print_) for key, print_ in self._new)
        before = (line_of(key, print_) for key, print_ in self._undo())
        write_lines(self.path, chain([self._header, about], now, [BEFORE], before, [END]))
        remove(sibling(self.path, PENDING))
        if self.counts["unconfirmed"]:
            log.warning(
                "The listing of %s changed while it was read, and lacks %s of the last run: a later run "
                "reports what was removed.",
                self._listing,
                counted(self.counts["unconfirmed"], "record"),
            )

    def summary(self) -> dict[str, int]:
        """The counts for an XCom."""
        return {kind: self.counts[kind] for kind in ("created", "updated", "deleted", "unconfirmed")}

    # -- helpers ---------------------------------------------------------------------------------------------

    def _changed(self, record: Record, change: str) -> Record:
        self.counts[change] += 1
        return {**record, CHANGE: change}

    def _missing(self) -> Iterator[Entry]:
        return ((key, print_) for key, print_ in self._old if self._new.get(key) is None)

    def _missing_since(self) -> Iterator[Entry]:
        """What only an earlier try of this task instance has seen."""
        return (
            (key, print_) for key, print_ in self._written if self._old.get(key) is None and self._new.get(key) is None
        )

    def _undo(self) -> Iterator[Entry]:
        """The entries that convert the new listing to the old one."""
        for key, print_ in self._new:
            if (before := self._old.get(key)) != print_:
                yield key, before
        yield from self._missing()

    def _key(self, record: Record) -> bytes:
        return id_of(record.get("id"), LISTINGS[self._listing]).encode(errors="surrogatepass")

    def _print(self, shown: Any) -> bytes:
        return self._hash("print", json_text(_sorted(shown), ascii_only=True))

    def _hash(self, *texts: str, key: bytes | None = None) -> bytes:
        return hmac.digest(self._secret if key is None else key, json.dumps(texts).encode(), "sha256")[:SIZE]

    def _load(self) -> bool:
        """Read the listing of the last run, or the one before it if this run replaces the output of the last one.

        :return: whether the file is of the same API key: with another key all fingerprints differ
        """
        try:
            lines = lines_of(self.path)
            header, about = next(lines, None), next(lines, "")
            if header is None and not self.path.exists():
                self._read_pending()
                return True  # the first run
            self._last_work, self._version = self._checked(header or "", about)
            self._read_pending()
            self._old.put(_section(lines, BEFORE))
            replaces = self._replaces_last
            self._repeats = self._merges and replaces
            if self._repeats:
                self._written.put(self._old)
            for entry in _section(lines, END):
                if replaces:
                    self._old.put([entry])
        except e.CrmError:
            raise
        except (OtherKeyError, UnreadableError, ValueError, RecursionError):
            raise self._wrong(
                "is damaged or is another file", "restore it, or remove it: then all records count as created"
            ) from None
        if header != self._header:
            log.warning("The state file %s is of another API key: all known records count as updated.", self.path)
        return header == self._header

    @property
    def _replaces_last(self) -> bool:
        """Whether this run replaces the output of the last one.

        Either it is of the same task instance, or such a run recorded its output but did not replace the state file.
        """
        return self._last_work in [self._work, *(mark.partition("-")[0] for mark in self._pending)]

    @property
    def _last_run(self) -> str:
        """The mark of the run that wrote the state file. Files without a number are of runs without one."""
        return f"{self._last_work}-{self._version - 1}" if self._version else str(self._last_work)

    def _read_pending(self) -> None:
        """Read which runs may have written rows since this version of the state file."""
        self.run, pending = f"{self._work}-{self._version}", sibling(self.path, PENDING)
        try:
            with read_own(pending) as file:
                found = json.loads(file.read(LARGEST_PENDING))
            if found["version"] == self._version:  # else a later version knows what became of them
                self._pending = [mark for mark in found["runs"] if isinstance(mark, str)]
        except FileNotFoundError:
            pass
        except (ValueError, TypeError, LookupError, RecursionError):
            raise e.CrmInvalidValueError(
                f"the file {pending} is damaged or is another file; remove it; rows of a failed run may then "
                "be there twice"
            ) from None

    def _checked(self, header: str, about: str) -> tuple[Any, int]:
        """The task instance that wrote the file, and the number of this version of it."""
        found = json.loads(about)
        if header.rpartition(" ")[0] != TITLE or not isinstance(found, dict):
            raise UnreadableError
        if (found.get("listing"), found.get("place")) != (self._listing, self._place):
            raise self._wrong(
                f"is not of the {self._listing} of this CRM", "give each listing and each CRM its own state_path"
            )
        version = found.get("version", 0)
        if not isinstance(version, int):
            raise UnreadableError
        return found.get("work"), version

    def _wrong(self, what: str, remedy: str) -> e.CrmInvalidValueError:
        return e.CrmInvalidValueError(f"the state file {self.path} {what}; {remedy}")


def _section(lines: Iterator[str], end: str) -> Iterator[Entry]:
    """The entries up to a line.

    :raises UnreadableError: if the line is missing, because the file was cut off
    """
    found = iter(lambda: next(lines, None), end)
    yield from entries(chain([TITLE], map(_present, found)), TITLE)


def _present(line: str | None) -> str:
    if line is None:
        raise UnreadableError
    return line


def _sorted(value: Any) -> Any:
    """A value with sorted names, at any depth."""
    if isinstance(value, Mapping):
        return {name: _sorted(value[name]) for name in sorted(value)}
    return [_sorted(item) for item in value] if isinstance(value, list) else value
