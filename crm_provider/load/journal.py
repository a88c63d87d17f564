"""Lines that are written one by one and survive a kill: what rejects files and state files are made of.

On a local disk a journal is one file that grows. Object stores cannot append: there a journal is numbered parts beside
its name (``<name>.part-000001``), one for each :meth:`Journal.sync`, which :meth:`Journal.finish` joins.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator

from crm_provider.load.journal_stores import GrowingFile, Parts, Store
from crm_provider.load.paths import AnyPath, atomic_writer, is_local


class Changed(Exception):
    """Somebody else writes to the file."""


class Journal:
    """Appends lines of text. Used by one thread, and by one run at a time.

    Opening costs nothing and creates nothing: the file comes with the first line. Lines of an earlier try are kept, but
    for a last one that a kill has torn.

    :param path: of the finished file
    :param quoted: a line break between double quotes is part of the line (CSV)
    """

    def __init__(self, path: AnyPath, *, quoted: bool = False) -> None:
        self.path = path
        self._quoted = quoted
        self._store: Store = GrowingFile(path, self._whole_lines) if is_local(path) else Parts(path)

    def append(self, line: str) -> None:
        """Write a line, without its line break. It survives a kill of this process from now on if the file is local.

        :raises CannotWrite: nothing of the line is there; also if the file was removed or replaced meanwhile
        """
        self._store.add(line.encode() + b"\n")

    def sync(self) -> None:
        """After this the lines so far survive anything, on object stores too, and no file is open.

        :raises CannotWrite: also each time from then on: what the disk has lost, it tells of once only; also if the
            file that the lines are in is not the one of that name any more
        """
        self._store.sync()

    def lines(self, *, rest: bool = False) -> Iterator[str]:
        """All whole lines that are there, those of earlier tries first.

        :param rest: also what follows the last line break: a torn line, or the last one of a file that was edited
        """
        for line in self._whole_lines(self._store.pieces(), rest=rest):
            yield line.removesuffix(b"\n").decode()

    def begins_like(self, text: str) -> bool:
        """Whether the first line begins with a text, or with as much of it as there is; also true for no line."""
        start = text.encode()
        return start.startswith(next(self._store.pieces(), b"")[: len(start)])

    def keep(self, wanted: Callable[[str], bool], *, undisturbed: bool = False) -> int:
        """Drop the other lines, and what a kill has torn.

        :param undisturbed: on a local disk, only if nobody else has written to the file meanwhile
        :return: how many lines are left
        :raises Changed: if somebody has; the file is as it was
        """
        before = self._store.state()
        if not any(True for _ in self.lines()):
            self.clear()
            return 0
        kept = 0
        with atomic_writer(self.path, "wb") as file:
            for line in self._whole_lines(self._store.pieces()):
                if wanted(line[:-1].decode()):
                    file.write(line)
                    kept += 1
            if undisturbed:
                file.flush()
                os.fsync(file.fileno())  # here, so that the look comes right before the file is replaced
                if self._store.state() != before:
                    raise Changed
        self._store.rewritten()
        if not kept:
            self.clear()
        return kept

    def finish(self) -> None:
        """Put all lines under the final name. More lines may follow."""
        self._store.sync()
        if not self._store.settled():
            self.keep(lambda line: True)

    def clear(self) -> None:
        """Remove everything."""
        self._store.clear()

    def _whole_lines(self, pieces: Iterable[bytes], *, rest: bool = False) -> Iterator[bytes]:
        line: list[bytes] = []
        quotes = 0
        for piece in pieces:
            line.append(piece)
            quotes += piece.count(b'"') if self._quoted else 0
            if piece.endswith(b"\n") and quotes % 2 == 0:
                yield b"".join(line)
                line, quotes = [], 0
        if rest and line:
            yield b"".join(line)
