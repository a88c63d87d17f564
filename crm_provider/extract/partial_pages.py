"""The pages that an extract has read so far, kept beside its target until the target is whole.

``contacts.csv.part-<whose>-<epoch>-<number>``: one line for each page, as it was. On a local disk a page is safe as
soon as it was read; on an object store, where nothing can be appended, once some pages are together. The parts belong
to one piece of work (``whose``) in one epoch: nobody else goes on with them. They are private files: they hold records.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import IO, Any

from crm_provider.client.pagination import ListedPage, Page
from crm_provider.files.paths import (
    AnyPath,
    append,
    each_line,
    is_local,
    private_file,
    read_own,
    remove,
    sibling,
    writing,
)
from crm_provider.values.json_values import json_text, json_value

VERSION = 1

PAGES_AT_ONCE = 50
"""Pages in one object of a store: what is read again at most. At 5 calls per second they take 10 s."""

LONGEST_REST = 2 * 24 * 3600.0
"""Seconds after which parts of others count as left behind; a task waits for at most a day for a used-up quota."""


_NAME = re.compile(r"[0-9a-f]{12}-\d{1,10}-\d{1,10}")
"""What follows the prefix in the name of a part: whose, epoch, number."""


@dataclass(frozen=True, kw_only=True)
class Owner:
    """Whose parts they are.

    :param work: tells one piece of work from all others: the task instance
    :param epoch: a greater one starts anew: a user cleared the task
    """

    work: str = ""
    epoch: int = 0

    @property
    def mark(self) -> str:
        """The part of the name that all epochs share."""
        return hashlib.sha256(self.work.encode()).hexdigest()[:12]


class PartialPages:
    """The pages of one listing on their way into a file.

    :param target: the file that they are beside
    :param source: what is listed, of which account: pages of another are not used
    :param clock: seconds since the epoch
    """

    def __init__(
        self, target: AnyPath, owner: Owner, *, source: str = "", clock: Callable[[], float] = time.time
    ) -> None:
        self._target, self._owner, self._source, self._clock = target, owner, source, clock
        self._prefix = f"{target.name}.part-"
        self._own = f"{self._prefix}{owner.mark}-{owner.epoch}-"
        self._file: IO[bytes] | None = None
        self._lines: list[str] = []

    def pages(self) -> Iterator[Page]:
        """The pages that are safe, in order from 0 on. A line that was cut off ends a part."""
        number = 0
        for part in self._found(self._own):
            for line in self._usable_lines(part):
                page = _page_of(line, number)
                if page is not None:
                    yield page
                    number += 1

    def add(self, listed: ListedPage) -> None:
        """Keep a page that was read."""
        self._lines.append(
            json_text({"page": listed.number, "total": listed.page.total, "items": listed.page.items}, ascii_only=True)
        )
        if is_local(self._target) or len(self._lines) >= PAGES_AT_ONCE:
            self.flush()

    def flush(self) -> None:
        """Make all pages safe that were added.

        :raises CannotWrite: those before them are safe
        """
        if not self._lines:
            return
        lines, self._lines = self._lines, []
        if self._file is not None:
            self._append(self._file, lines)
            return
        part, lines = self._next(), [self._head(), *lines]
        if is_local(part):
            self._file = private_file(part)
            self._append(self._file, lines)
        else:
            with writing(part), part.open("wb") as file:
                file.write(_joined(lines))

    def _append(self, file: IO[bytes], lines: list[str]) -> None:
        with writing(self._target):
            append(file, _joined(lines))
            os.fsync(file.fileno())

    def close(self) -> None:
        """Make all pages safe, and let go of the file."""
        try:
            self.flush()
        finally:
            file, self._file = self._file, None
            if file is not None:
                file.close()

    def remove(self) -> None:
        """Forget all pages: the target is whole, or nobody will go on."""
        self._lines.clear()
        self.close()
        for part in self._found(self._own):
            remove(part)

    def sweep(self) -> list[str]:
        """Remove what will not be used any more: earlier epochs, another source, what others left behind.

        :return: the names
        """
        gone = [part for part in self._found(self._prefix) if self._is_stale(part)]
        for part in gone:
            remove(part)
        return [part.name for part in gone]

    # -- files ----------------------------------------------------------------------------------------------

    def _found(self, prefix: str) -> list[AnyPath]:
        try:
            beside = [path for path in self._target.parent.iterdir() if path.name.startswith(prefix)]
        except (FileNotFoundError, NotADirectoryError):
            return []
        ours = [path for path in beside if _NAME.fullmatch(path.name.removeprefix(self._prefix))]
        return sorted(ours, key=lambda path: path.name)

    def _next(self) -> AnyPath:
        number = max((int(part.name.rpartition("-")[2]) for part in self._found(self._own)), default=-1) + 1
        return sibling(self._target, f".part-{self._owner.mark}-{self._owner.epoch}-{number:06}")

    def _head(self) -> str:
        return json_text({"version": VERSION, "source": self._source, "started": self._clock()})

    def _is_stale(self, part: AnyPath) -> bool:
        mark, epoch, _ = part.name.removeprefix(self._prefix).split("-")
        try:
            head = next(iter(_lines(part)), {})
        except PermissionError:
            return False  # somebody else's, whatever its name says
        if mark != self._owner.mark:
            started = head.get("started")
            return not isinstance(started, (int, Decimal)) or self._clock() - float(started) > LONGEST_REST
        return int(epoch) != self._owner.epoch or not self._is_usable(head)

    def _is_usable(self, head: dict[str, Any]) -> bool:
        known: tuple[object, object] = head.get("version"), head.get("source")
        return known == (VERSION, self._source)

    def _usable_lines(self, part: AnyPath) -> Iterator[dict[str, Any]]:
        lines = _lines(part)
        if self._is_usable(next(lines, {})):
            yield from lines


def _lines(part: AnyPath) -> Iterator[dict[str, Any]]:
    """The whole lines of a part; the last may have been cut off by a kill."""
    with read_own(part) as file:
        for line in each_line(file, part):
            if not line.endswith(b"\n"):
                return
            try:
                value = json_value(line)
            except (ValueError, RecursionError):
                return  # a block that a power cut left empty
            if not isinstance(value, dict):
                return
            yield value


def _page_of(line: dict[str, Any], number: int) -> Page | None:
    """The page of a line, None if it is another one or none."""
    items, total = line.get("items"), line.get("total")
    whole = isinstance(items, list) and all(isinstance(item, dict) for item in items)
    if line.get("page") != number or not whole or not isinstance(total, (int, type(None))):
        return None
    return Page(items or [], total)


def _joined(lines: list[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode("ascii")
