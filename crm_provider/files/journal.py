"""Append-only files that survive a kill, line by line: rejects, the state journal and the pages of an extract.

On a local disk a journal is one file that grows. Object stores cannot append: there a journal consists of numbered
parts beside its name (``<name>.part-000001``), one for each :meth:`Journal.sync`, and :meth:`Journal.finish` joins
them.
"""

from __future__ import annotations

import io
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any, Protocol

from crm_provider.files.paths import (
    LONGEST_LINE,
    AnyPath,
    CannotWrite,
    append,
    atomic_writer,
    each_line,
    is_local,
    private_file,
    read_own,
    remove,
    sibling,
    too_long,
    writing,
)

REPLACED = "another try or program has removed or replaced it"

MOST_WAITING = 8 * 1024 * 1024
"""Maximum bytes in memory before the next part is written."""


class ByteStore(Protocol):
    """Where the bytes of a journal are kept."""

    def add(self, data: bytes) -> None: ...

    def sync(self) -> None: ...

    def pieces(self) -> Iterator[bytes]: ...

    def state(self) -> object: ...

    def is_complete(self) -> bool: ...

    def rewritten(self) -> None: ...

    def clear(self) -> None: ...


class GrowingFile:
    """One local file."""

    def __init__(self, path: Any, whole_lines: Callable[[Iterable[bytes]], Iterator[bytes]]) -> None:
        self._path = path
        self._whole_lines = whole_lines
        self._file: IO[bytes] | None = None
        self._checked = False
        self._lost: CannotWrite | None = None

    def add(self, data: bytes) -> None:
        if self._lost is not None:
            raise self._lost
        if self._file is None:
            if self._checked and not os.path.lexists(self._path):  # a new file would lack the earlier lines of this try
                raise CannotWrite(str(self._path), REPLACED)
            self._file = private_file(self._path)
        self._check_still_there(self._file)
        try:
            with writing(self._path):
                if not self._checked:
                    os.ftruncate(self._file.fileno(), sum(map(len, self._whole_lines(self.pieces()))))
                    self._checked = True
                append(self._file, data)
        except CannotWrite:
            self._sync(named=False)  # there may be no further call
            raise

    def sync(self) -> None:
        """Write the data to disk and close the file, so that nothing stays open after the last call."""
        self._sync(named=True)

    def _sync(self, *, named: bool) -> None:
        """Write the data to disk and close the file.

        :param named: fail if the name now belongs to another file, because nobody would read the lines
        """
        if self._lost is not None:
            raise self._lost
        if self._file is not None:
            file, self._file = self._file, None  # first: a signal may raise an exception anywhere
            try:
                with writing(self._path), file:
                    os.fsync(file.fileno())
                    if named:
                        self._check_still_there(file)
            except CannotWrite as lost:
                self._lost = lost
                raise

    def pieces(self) -> Iterator[bytes]:
        yield from _pieces(self._path)

    def state(self) -> object:
        """A value that changes with the file."""
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return None
        return found.st_dev, found.st_ino, found.st_size

    def is_complete(self) -> bool:
        """Whether all data is under the final name, and only there."""
        return True

    def rewritten(self) -> None:
        """Close the open file after a new one has replaced it."""
        self._sync(named=False)

    def clear(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()
        self._checked = False
        remove(self._path)

    def _check_still_there(self, file: IO[bytes]) -> None:
        with writing(self._path):
            try:
                if os.path.samestat(os.fstat(file.fileno()), self._path.stat()):
                    return
            except FileNotFoundError:
                pass
            raise CannotWrite(str(self._path), REPLACED)


class ObjectParts:
    """Objects in a store.

    An object under the final name is complete. Parts beside it were left by a kill during the join. To append to the
    object, it is turned into the first part.
    """

    def __init__(self, path: AnyPath) -> None:
        self._path = path
        self._waiting = bytearray()
        self._next: int | None = None

    def add(self, data: bytes) -> None:
        self._waiting += data
        if len(self._waiting) > MOST_WAITING:
            self.sync()

    def sync(self) -> None:
        if not self._waiting:
            return
        if self._next is None:
            self._next = self._reopened()
        with atomic_writer(self._part(self._next), "wb") as file:
            file.write(self._waiting)
        self._next += 1
        self._waiting.clear()

    def _reopened(self) -> int:
        """Turn a finished object into the first part.

        :return: number of the next part
        """
        if not self._path.exists():
            return max(self._numbers(), default=0) + 1
        self._drop_parts()
        with self._path.open("rb") as file, atomic_writer(self._part(1), "wb") as part:
            shutil.copyfileobj(file, part)
        remove(self._path)
        return 2

    def pieces(self) -> Iterator[bytes]:
        if self._path.exists():
            yield from _pieces(self._path)
        else:
            for number in self._numbers():
                yield from _pieces(self._part(number))
        yield from io.BytesIO(self._waiting)

    def state(self) -> object:
        return None

    def is_complete(self) -> bool:
        if not self._path.exists():
            return not self._numbers()
        self._drop_parts()
        return True

    def rewritten(self) -> None:
        self._waiting.clear()
        self._drop_parts()
        self._next = None

    def clear(self) -> None:
        self._waiting.clear()
        self._drop_parts()
        remove(self._path)
        self._next = None

    def _part(self, number: int) -> AnyPath:
        return sibling(self._path, f".part-{number:06d}")

    def _numbers(self) -> list[int]:
        named = re.compile(re.escape(self._path.name) + r"\.part-(\d{6,})")
        try:
            found = [named.fullmatch(path.name) for path in self._path.parent.iterdir()]
        except (FileNotFoundError, NotADirectoryError):  # no folder yet
            return []
        return sorted(int(match[1]) for match in found if match)

    def _drop_parts(self) -> None:
        for number in self._numbers():
            remove(self._part(number))


def _pieces(path: AnyPath) -> Iterator[bytes]:
    try:
        file = read_own(path)
    except FileNotFoundError:
        return
    with file:
        yield from each_line(file, path)


class FileChanged(Exception):
    """Another process has written to the file."""


class Journal:
    """Appends lines of text. Used by one thread, and by one run at a time.

    The file is created with the first line. Lines of an earlier try are kept, except for an incomplete last line.

    :param path: path of the finished file
    :param quoted: a line break between double quotes is part of the line (CSV)
    :param errors: how to decode bytes that are not UTF-8, as for ``bytes.decode``
    """

    def __init__(self, path: AnyPath, *, quoted: bool = False, errors: str = "strict") -> None:
        self.path = path
        self._quoted, self._errors = quoted, errors
        self._store: ByteStore = GrowingFile(path, self._whole_lines) if is_local(path) else ObjectParts(path)

    def append(self, line: str) -> None:
        """Write a line, given without its line break. On a local disk it then survives a kill of this process.

        :raises CannotWrite: then nothing of the line was written; also raised if the file was removed or replaced
        """
        self._store.add(line.encode() + b"\n")

    def sync(self) -> None:
        """Make the lines so far survive a power cut, on object stores, too. No file is open afterwards.

        :raises CannotWrite: also at each later call, because the system reports a lost write only once; also if the
            name now belongs to another file
        """
        self._store.sync()

    def lines(self, *, rest: bool = False) -> Iterator[str]:
        """All complete lines, those of earlier tries first.

        :param rest: include the text after the last line break: an incomplete line, or the last one of an edited file
        """
        for line in self._whole_lines(self._store.pieces(), rest=rest):
            yield line.removesuffix(b"\n").decode(errors=self._errors)

    def begins_like(self, text: str) -> bool:
        """Whether the file begins with a text, or the text with the file. True for an empty file."""
        start = text.encode()
        return start.startswith(next(self._store.pieces(), b"")[: len(start)])

    def keep(
        self, wanted: Callable[[str], bool], *, change: Callable[[str], str] | None = None, undisturbed: bool = False
    ) -> int:
        """Drop all other lines and an incomplete last one.

        :param change: what becomes of each line that is kept; by default it stays as it is
        :param undisturbed: on a local disk, fail if another process has written to the file meanwhile
        :return: the number of remaining lines
        :raises FileChanged: if another process has written to the file, which is then unchanged
        """
        before = self._store.state()
        if not any(True for _ in self.lines()):
            self.clear()
            return 0
        kept = 0
        with atomic_writer(self.path, "wb") as file:
            for line in self._whole_lines(self._store.pieces()):
                if wanted(text := line[:-1].decode()):
                    file.write(line if change is None else change(text).encode() + b"\n")
                    kept += 1
            if undisturbed:
                file.flush()
                os.fsync(file.fileno())  # now, so that the check comes right before the file is replaced
                if self._store.state() != before:
                    raise FileChanged
        self._store.rewritten()
        if not kept:
            self.clear()
        return kept

    def finish(self) -> None:
        """Put all lines under the final name. More lines may follow."""
        self._store.sync()
        if not self._store.is_complete():
            self.keep(lambda line: True)

    def clear(self) -> None:
        """Remove everything."""
        self._store.clear()

    def _whole_lines(self, pieces: Iterable[bytes], *, rest: bool = False) -> Iterator[bytes]:
        line: list[bytes] = []
        quotes = size = 0
        for piece in pieces:
            line.append(piece)
            size += len(piece)
            quotes += piece.count(b'"') if self._quoted else 0
            if piece.endswith(b"\n") and quotes % 2 == 0:
                yield b"".join(line)
                line, quotes, size = [], 0, 0
            elif size >= LONGEST_LINE:
                raise too_long(self.path)
        if rest and line:
            yield b"".join(line)
