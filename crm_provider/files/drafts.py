"""Drafts: files that are written completely before they get their final name or are sent to an object store.

A killed writer leaves no draft of an object. It leaves one beside a local file, which the next writer of the file uses.
"""

from __future__ import annotations

import fcntl
import os
import pathlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from crm_provider.files.private import open_private

LONGEST_NAME = 60
"""Characters of a file's name in the name of its draft."""


@contextmanager
def draft_beside(final: pathlib.Path) -> Iterator[tuple[int, pathlib.Path]]:
    """An empty private file in the folder of a file. It is deleted at the end if possible, unless it was renamed.

    All writers of a file use the same name. If another one is using it, or another user has put a file there, this
    writer takes a random name.

    :return: its descriptor and its path
    :raises OSError: if it cannot be created
    """
    number, path = _shared_draft(final) or _random_draft(final)
    try:
        yield number, path
    finally:
        with suppress(OSError):  # of a disk that is read-only now: it would hide the error of the write
            if _is_at(number, path):
                path.unlink()
        os.close(number)


@contextmanager
def draft_without_name() -> Iterator[int]:
    """An empty file in the temporary folder, which no other process can open and which ends with this one.

    :return: its descriptor
    :raises OSError: if it cannot be created
    """
    with tempfile.TemporaryFile(prefix="crm-") as file:
        yield file.fileno()


def delete_draft_of(final: pathlib.Path) -> None:
    """Delete the draft that a killed writer of a file has left, if any."""
    if os.path.lexists(_shared_path(final)) and (draft := _shared_draft(final)):
        number, path = draft
        path.unlink()
        os.close(number)


def _shared_path(final: pathlib.Path) -> pathlib.Path:
    """The draft's path. No other program uses this name: a file that is found there is overwritten."""
    return final.with_name(f".{final.name[:LONGEST_NAME]}.crm.tmp")


def _shared_draft(final: pathlib.Path) -> tuple[int, pathlib.Path] | None:
    """The draft that all writers use, locked and empty; None if it is in use or cannot be used."""
    path = _shared_path(final)
    try:
        number = open_private(path, os.O_RDWR | os.O_CREAT)
    except OSError:
        return None
    with suppress(OSError):
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_at(number, path):  # otherwise it was renamed or deleted between opening and locking
            os.ftruncate(number, 0)
            return number, path
    os.close(number)
    return None


def _random_draft(final: pathlib.Path) -> tuple[int, pathlib.Path]:
    number, name = tempfile.mkstemp(prefix=f".{final.name[:LONGEST_NAME]}.", suffix=".tmp", dir=final.parent)
    return number, pathlib.Path(name)


def _is_at(number: int, path: pathlib.Path) -> bool:
    try:
        return os.path.samestat(os.fstat(number), path.lstat())
    except FileNotFoundError:
        return False
