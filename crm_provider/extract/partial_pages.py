"""The pages that an extract has read so far, kept beside its target until the target is complete.

``contacts.csv.part-<work>-<epoch>`` is a journal (:mod:`crm_provider.files.journal`) with one line for each page. On a
local disk each page is saved as soon as it was read. An object store cannot append, so several pages are saved
together. The journal belongs to one piece of work in one epoch; no other task continues it.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from crm_provider.client.pagination import ListedPage, Page
from crm_provider.files.journal import Journal
from crm_provider.files.paths import AnyPath, is_local, sibling
from crm_provider.values.json_values import json_text, json_value

VERSION = 1

PAGES_AT_ONCE = 50
"""Pages in one object of a store, and so the most that are read again: 10 s at 5 calls per second."""

LONGEST_REST = 2 * 24 * 3600.0
"""Seconds after which pages of other tasks count as abandoned. A task waits at most a day for a used-up quota."""

_NAME = re.compile(r"([0-9a-f]{12}-\d{1,10})(?:\.part-\d{6,})?")
"""The end of a file's name: mark and epoch, and on an object store the number of the part."""


@dataclass(frozen=True, kw_only=True)
class Owner:
    """The task instance that the pages belong to.

    :param work: identifies one piece of work: the task instance
    :param epoch: starts again if it is greater, because a user cleared the task
    """

    work: str = ""
    epoch: int = 0

    @property
    def mark(self) -> str:
        """The part of the name that all epochs share."""
        return hashlib.sha256(self.work.encode()).hexdigest()[:12]


class PartialPages:
    """The pages of one listing that were read for a file.

    :param target: the file that they are kept beside
    :param source: the listing and the account; pages of another source are not used
    :param clock: seconds since the epoch
    """

    def __init__(
        self, target: AnyPath, owner: Owner, *, source: str = "", clock: Callable[[], float] = time.time
    ) -> None:
        self._target, self._owner, self._source, self._clock = target, owner, source, clock
        self._prefix = f"{target.name}.part-"
        self._name = f"{owner.mark}-{owner.epoch}"
        self._journal = self._journal_of(self._name)
        self._at_once = 1 if is_local(target) else PAGES_AT_ONCE
        self._begun = False
        self._unsaved = 0

    def pages(self) -> Iterator[Page]:
        """The saved pages, in order from 0 on. Torn lines and repeated pages are skipped."""
        lines = _objects(self._journal_of(self._name))
        if not self._is_usable(next(lines, {})):
            return
        number = 0
        for line in lines:
            page = _page_of(line, number)
            if page is not None:
                yield page
                number += 1

    def add(self, listed: ListedPage) -> None:
        """Save a page that was read.

        :raises CannotWrite: the pages saved before are kept
        """
        if not self._begun:
            self._begin()
        self._journal.append(
            json_text({"page": listed.number, "total": listed.page.total, "items": listed.page.items}, ascii_only=True)
        )
        self._unsaved += 1
        if self._unsaved >= self._at_once:
            self.close()

    def close(self) -> None:
        """Save all pages, and close the file.

        :raises CannotWrite: the pages saved before are kept
        """
        self._unsaved = 0
        self._journal.sync()

    def remove(self) -> None:
        """Remove all pages: the target is complete, or no try will continue."""
        self._journal.clear()
        self._begun, self._unsaved = False, 0

    def sweep(self) -> list[str]:
        """Remove files that no try will use: earlier epochs, another source, abandoned pages of other tasks.

        :return: the names
        """
        stale = [name for name in self._names() if self._is_stale(name)]
        for name in stale:
            self._journal_of(name).clear()
        return [f"{self._prefix}{name}" for name in stale]

    # -- files ----------------------------------------------------------------------------------------------

    def _journal_of(self, name: str) -> Journal:
        return Journal(sibling(self._target, f".part-{name}"), errors="replace")

    def _begin(self) -> None:
        """Continue the journal of an earlier try, or start one."""
        if not self._is_usable(_head(self._journal)):
            self._journal.clear()
            head = {"version": VERSION, "source": self._source, "started": self._clock()}
            self._journal.append(json_text(head, ascii_only=True))
        self._begun = True

    def _names(self) -> list[str]:
        """Mark and epoch of each journal beside the target."""
        try:
            beside = [path.name for path in self._target.parent.iterdir() if path.name.startswith(self._prefix)]
        except (FileNotFoundError, NotADirectoryError):
            return []
        found = (_NAME.fullmatch(name.removeprefix(self._prefix)) for name in beside)
        return sorted({name[1] for name in found if name})

    def _is_stale(self, name: str) -> bool:
        mark, epoch = name.split("-")
        try:
            head = _head(self._journal_of(name))
        except PermissionError:
            return False  # another user's file, in spite of its name
        if mark != self._owner.mark:
            started = head.get("started")
            return not isinstance(started, (int, Decimal)) or self._clock() - float(started) > LONGEST_REST
        return int(epoch) != self._owner.epoch or not self._is_usable(head)

    def _is_usable(self, head: dict[str, Any]) -> bool:
        known: tuple[object, object] = head.get("version"), head.get("source")
        return known == (VERSION, self._source)


def _head(journal: Journal) -> dict[str, Any]:
    """The first line of a journal; empty if it is not ours."""
    return _object(next(journal.lines(), ""))


def _objects(journal: Journal) -> Iterator[dict[str, Any]]:
    yield from map(_object, journal.lines())


def _object(line: str) -> dict[str, Any]:
    """The JSON object of a line; empty for any other line, such as a block that a power cut left empty."""
    try:
        value = json_value(line)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _page_of(line: dict[str, Any], number: int) -> Page | None:
    """The page of a line; None if it is not the expected page."""
    items, total = line.get("items"), line.get("total")
    is_page = isinstance(items, list) and all(isinstance(item, dict) for item in items)
    if line.get("page") != number or not is_page or not isinstance(total, (int, type(None))):
        return None
    return Page(items or [], total)
