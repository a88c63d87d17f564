"""Opens local files so that no other user of the machine can substitute them.

Users who can write to a folder can put a link there, so that another file is overwritten, a file of their own, which is
then trusted, or a pipe or device, which blocks the task or fills its memory. So a folder that other users can write to
is refused, and each file is opened without blocking and then checked. Members of the user's groups are trusted, as on a
network share.
"""

from __future__ import annotations

import errno
import os
import pathlib
import stat
from contextlib import suppress

A_LINK = "it is a symbolic link, which another user may have put there; remove it"
NOT_OURS = "another user has put it there, or a link to it; remove it, or use a folder where only you can write"
NO_FILE = "it is not an ordinary file (a pipe, a device or a socket); remove it"
OPEN_FOLDER = "every user of the machine can write to its folder; use a folder of your own, or chmod o-w"
FOREIGN_FOLDER = "its folder belongs to another user; use a folder of your own"
FOREIGN_LINK = "a link of another user leads to its folder; use a folder of your own"


def open_private(path: pathlib.Path, flags: int) -> int:
    """Open a local file. A new file is for this user only.

    :return: its descriptor
    :raises PermissionError: if others may have put it there, or it is not an ordinary file
    :raises IsADirectoryError: if it is a folder
    """
    folder = check_folder(path.parent)
    if not _is_only_ours(folder):
        flags |= os.O_NOFOLLOW
    elif path.is_symlink():
        check_folder(pathlib.Path(os.path.realpath(path)).parent)
    number = open_regular(path, flags)
    try:
        if not _is_only_ours(folder):
            _check_owner(path, os.fstat(number), folder)
    except BaseException:
        os.close(number)
        raise
    return number


def open_regular(path: pathlib.Path, flags: int = os.O_RDONLY, *, folder: int | None = None) -> int:
    """Open a local file of any owner, without waiting for the other end of a pipe.

    :param folder: descriptor of the open folder that the path is relative to
    :return: its descriptor
    :raises PermissionError: if it is not an ordinary file, or a link that must not be followed
    :raises IsADirectoryError: if it is a folder
    """
    try:
        number = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, 0o600, dir_fd=folder)
    except OSError as refused:
        reasons = {errno.ELOOP: A_LINK, errno.ENXIO: NO_FILE}  # the latter: a pipe without a reader
        if refused.errno in reasons:
            raise PermissionError(refused.errno, reasons[refused.errno], str(path)) from None
        raise
    mode = os.fstat(number).st_mode
    if stat.S_ISREG(mode):
        return number
    os.close(number)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise PermissionError(errno.EPERM, NO_FILE, str(path))


def open_own_folder(folder: pathlib.Path) -> int:
    """Open a folder in which no other user has any right. It is created if it is missing.

    :return: its descriptor
    :raises PermissionError: if another user owns it or has rights in it
    :raises OSError: if it is a link or not a folder
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        number = os.open(folder, flags)
    except FileNotFoundError:
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        number = os.open(folder, flags)
    try:
        _check_own_folder(os.fstat(number))
    except BaseException:
        os.close(number)
        raise
    return number


def check_folder(folder: pathlib.Path) -> os.stat_result:
    """Check that no other user can write to a folder or replace it.

    :return: the folder's status
    :raises PermissionError: if another user can
    """
    given = pathlib.Path(os.path.abspath(folder))  # noqa: PTH100 - without following links
    for place in (given, *given.parents):
        about = place.lstat()
        if stat.S_ISLNK(about.st_mode) and not _is_trusted(about):
            raise PermissionError(errno.EPERM, FOREIGN_LINK, str(folder))
    real = pathlib.Path(os.path.realpath(folder))
    found = real.stat()
    if found.st_mode & stat.S_IWOTH:
        raise PermissionError(errno.EPERM, OPEN_FOLDER, str(folder))
    if not _is_trusted(found) and not _is_of_our_group(found):
        raise PermissionError(errno.EPERM, FOREIGN_FOLDER, str(folder))
    inner = found
    for parent in real.parents:
        above = parent.stat()
        if above.st_mode & stat.S_IWOTH and not (above.st_mode & stat.S_ISVTX and _is_trusted(inner)):
            raise PermissionError(errno.EPERM, OPEN_FOLDER, str(folder))
        inner = above
    return found


# -- helpers ------------------------------------------------------------------------------------------------


def _check_own_folder(about: os.stat_result) -> None:
    if about.st_uid != os.geteuid():
        raise PermissionError(errno.EPERM, "it belongs to another user")
    if stat.S_IMODE(about.st_mode) & 0o077:
        raise PermissionError(errno.EPERM, "other users have rights in it; it must have mode 0700")


def _is_trusted(about: os.stat_result) -> bool:
    return about.st_uid in (os.geteuid(), 0)


def _is_of_our_group(about: os.stat_result) -> bool:
    """Whether a folder is shared with a group of this user."""
    return bool(about.st_mode & stat.S_IWGRP) and about.st_gid in (os.getegid(), *os.getgroups())


def _is_only_ours(folder: os.stat_result) -> bool:
    return _is_trusted(folder) and not folder.st_mode & stat.S_IWGRP


def _check_owner(path: pathlib.Path, file: os.stat_result, folder: os.stat_result) -> None:
    """Check a file in a group's folder: it must belong to a member and have no second link."""
    known = _is_trusted(file) or file.st_uid == folder.st_uid or file.st_gid == folder.st_gid
    if not known or file.st_nlink > 1:
        raise PermissionError(errno.EPERM, NOT_OURS, str(path))
