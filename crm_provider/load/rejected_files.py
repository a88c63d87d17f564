"""Several rejects files as the source of one load."""

from __future__ import annotations

import glob
from bisect import bisect_left
from collections.abc import Iterable, Iterator

from crm_provider.files.paths import AnyPath, is_local
from crm_provider.load.rejects.file import NoRejects, RejectedRows
from crm_provider.load.rows import NoSuchFile, Row, SourceError
from crm_provider.load.sources.files import expand_pattern
from crm_provider.values.counted import counted


class RejectedFiles:
    """The rows of several rejects files, one file after the other, numbered from 1 over all files.

    :param files: at least one
    """

    def __init__(self, files: list[RejectedRows]) -> None:
        self._files = files
        self._ends: list[int] = []
        """The number of the last row of each file that was read."""
        self.name = f"{len(files)} rejects files"
        self.columns: tuple[str, ...] | None = None
        headers = [file.header or () for file in files]
        self.header = tuple(dict.fromkeys(name for header in headers for name in header)) if all(headers) else None
        """The columns of all files if all are CSV."""

    @property
    def left_out(self) -> int:
        """Rows that the last read left out, because they fail again unless someone corrects them."""
        return sum(file.left_out for file in self._files)

    def rows(self) -> Iterator[Row]:
        """The rows as they were given to the loads that rejected them."""
        self._ends, number = [], 0
        for file in self._files:
            self._ends.append(number)
            for row in file.rows():
                number += 1
                self._ends[-1] = number
                yield row._replace(number=number)

    def original(self, number: int) -> int:
        """The number of a row in its first source."""
        file, own = self._find(number)
        return file.original(own)

    def place(self, number: int) -> str:
        """The file and line of a row, for messages."""
        file, own = self._find(number)
        return file.place(own)

    def is_malformed(self, number: int) -> bool:
        """Whether the first source could not read a row, and nobody has corrected it since."""
        file, own = self._find(number)
        return file.is_malformed(own)

    def _find(self, number: int) -> tuple[RejectedRows, int]:
        """The file of a row, and the number of the row in the file."""
        at = bisect_left(self._ends, number)
        return self._files[at], number - (self._ends[at - 1] if at else 0)


def find_rejects(paths: Iterable[AnyPath]) -> list[AnyPath]:
    """The files that paths and patterns mean, each once; a pattern may match none.

    :raises SourceError: if a local folder is missing
    """
    found: list[AnyPath] = []
    for path in paths:
        _check_folder(path)
        try:
            found += expand_pattern(path)
        except NoSuchFile:
            continue
    return list({str(path): path for path in found}.values())


def _check_folder(path: AnyPath) -> None:
    """Check that this host has the folder of a path, as a load creates it before its first call.

    :raises SourceError: if it is missing, so that a missing file does not prove that no row was rejected
    """
    if not is_local(path):
        return
    folder = next(parent for parent in path.parents if not {*"*?["} & set(str(parent)))
    if not folder.is_dir():
        raise SourceError(
            f"rejects: this worker has no folder {folder}, which a load creates for its rejects file: correct the path "
            "if it has a typo, put the file on a disk that all workers share, or see whether the load has run"
        )


def mapped_instead(paths: Iterable[AnyPath]) -> str:
    """A hint if a path is missing and instances of a mapped task have written files of its name; else empty.

    Their names are those of :func:`~crm_provider.files.paths.indexed`.
    """
    for path in paths:
        start = path.name.removesuffix(path.suffix)
        others = path.parent.glob(f"{glob.escape(start)}.*{glob.escape(path.suffix)}")
        names = (other.name.removeprefix(f"{start}.").removesuffix(path.suffix) for other in others)
        numbered = [name for name in names if name.isdecimal()]
        if numbered and not path.exists():
            files = counted(len(numbered), "file")
            return (
                f"a mapped load has written {files} of its own; give the pattern {path.parent / start}.*{path.suffix}"
            )
    return ""


def read_rejects_of(
    paths: list[AnyPath], *, retryable_only: bool = False, kind: str | None = None
) -> RejectedRows | RejectedFiles:
    """The rows of rejects files, to be loaded again. Of several files, those that are missing or empty are left out.

    :param kind: what the rows are to become; by default not checked
    :raises NoRejects: if there is no such file
    :raises SourceError: if a file is not a rejects file; the text names file and line
    """
    if len(paths) == 1:
        return RejectedRows(paths[0], retryable_only=retryable_only, kind=kind)
    files = []
    for path in paths:
        try:
            files.append(RejectedRows(path, retryable_only=retryable_only, kind=kind))
        except NoRejects:
            continue
    if not files:
        raise NoRejects("there is no rejects file with this name or pattern")
    return RejectedFiles(files)
