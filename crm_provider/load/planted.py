"""Files that somebody else may have put in a load's way, in a folder where every user of the machine can write.

In ``/tmp`` others can guess a file's name and be there first: with a link to another file, to have it overwritten, or
with a file of their own, to read what is written to it or to have it believed. Linux refuses most of that by itself
(``fs.protected_regular`` and its like), where it is switched on; this is the same rule, for everywhere else. The folder
is what decides: in one where only known users can write, files may well have another owner, as on a network share.
"""

from __future__ import annotations

import errno
import os
import pathlib
import stat

OPEN_TO_ALL = stat.S_ISVTX | stat.S_IWOTH
"""Mode of a folder such as ``/tmp``: all may write, and each may delete only files of his own."""

A_LINK = "it is a symbolic link, which anyone may have put there; remove it"
NOT_OURS = "another user has put it there, or a link to it; remove it, or use a folder where only you can write"


def open_own(path: pathlib.Path, flags: int) -> int:
    """Open a local file; one that is made is for this user only.

    :return: its descriptor
    :raises PermissionError: if others may have put it there
    """
    folder = path.parent.stat()
    if folder.st_mode & OPEN_TO_ALL == OPEN_TO_ALL:
        flags |= os.O_NOFOLLOW | os.O_NONBLOCK  # a pipe would hold us
    try:
        number = os.open(path, flags | os.O_CLOEXEC, 0o600)
    except OSError as refused:
        if refused.errno == errno.ELOOP:
            raise PermissionError(errno.ELOOP, A_LINK, str(path)) from None
        raise
    if is_planted(os.fstat(number), folder, os.geteuid()):
        os.close(number)
        raise PermissionError(errno.EPERM, NOT_OURS, str(path))
    return number


def is_planted(file: os.stat_result, folder: os.stat_result, user: int) -> bool:
    """Whether somebody else than a user may have put a file into its folder."""
    if folder.st_mode & OPEN_TO_ALL != OPEN_TO_ALL:
        return False
    return file.st_uid not in (user, folder.st_uid) or file.st_nlink > 1 or not stat.S_ISREG(file.st_mode)
