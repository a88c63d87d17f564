"""Paths on local disks and object stores through one interface, that of ``pathlib``: atomic writes, appends, reads.

The files of a load are private: files have mode 0600, and folders that it creates 0700. Local files are opened by
:mod:`crm_provider.files.private`, which refuses folders that other users can write to.
"""

from __future__ import annotations

import io
import os
import pathlib
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import IO, Any, Literal, Protocol, TypeGuard, cast, runtime_checkable

from crm_provider.files.drafts import delete_draft_of, draft_beside, draft_without_name
from crm_provider.files.private import check_folder, open_private, open_regular

LOCAL_PROTOCOLS = frozenset({"", "file", "local"})


class CannotWrite(OSError):
    """A file cannot be written. The system's own error often does not name it.

    :param what: the file
    :param reason: such as "No space left on device"
    """

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(f"{what} cannot be written: {reason}")
        self.what, self.reason = what, reason

    def __reduce__(self) -> tuple[type[CannotWrite], tuple[str, str]]:
        return type(self), (self.what, self.reason)


class CannotRead(PermissionError):
    """A file of an earlier try cannot be read, or cannot be trusted.

    :param what: the file
    :param reason: for example that another user may have put it there
    """

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(f"{what} cannot be read: {reason}")
        self.what, self.reason = what, reason

    def __reduce__(self) -> tuple[type[CannotRead], tuple[str, str]]:
        return type(self), (self.what, self.reason)


@runtime_checkable
class AnyPath(Protocol):
    """The part of ``pathlib.Path`` that ``universal_pathlib`` and Airflow's ``ObjectStoragePath`` have too.

    The methods are declared as properties, because their signatures differ in parameters that are not used here.
    """

    @property
    def name(self) -> str: ...

    @property
    def suffix(self) -> str: ...

    @property
    def parent(self) -> Any: ...

    @property
    def open(self) -> Callable[..., Any]: ...

    @property
    def exists(self) -> Callable[..., bool]: ...

    @property
    def glob(self) -> Callable[..., Any]: ...

    @property
    def iterdir(self) -> Callable[..., Any]: ...

    @property
    def unlink(self) -> Callable[..., None]: ...


def as_path(given: str | os.PathLike[str] | AnyPath) -> AnyPath:
    """A path object. A path on a local disk becomes an absolute ``pathlib.Path``, whatever wraps it.

    Messages, logs and results then show the folder of a relative path: that of the process, which differs by worker.

    :raises ValueError: for an empty path, for ``None``, for a value as text (:func:`is_content`), and for a URL as
        text: only a path object knows its connection
    """
    if isinstance(given, str):
        return _of_text(given)
    if not isinstance(given, (os.PathLike, AnyPath)):
        raise ValueError(f"a path must be text or a path object but is of type {type(given).__name__}")
    if isinstance(given, AnyPath) and _protocol(given) not in LOCAL_PROTOCOLS:
        return given
    inner: Any = getattr(given, "path", given)
    return _at_home(pathlib.Path(inner))


def is_content(text: str) -> bool:
    """Whether a text is no path but a value as text: a list, a mapping, or several lines such as those of a file.

    It may hold addresses. A template that is not rendered yet is none.
    """
    bare = text.strip()
    is_template = bare.startswith(("{{", "{%", "{#"))
    return not is_template and (bare[:1] + bare[-1:] in ("[]", "()", "{}") or "\n" in bare)


def is_local(path: AnyPath) -> TypeGuard[pathlib.Path]:
    """Whether a path of :func:`as_path` is on a local or mounted disk."""
    return isinstance(path, pathlib.Path) and _protocol(path) in LOCAL_PROTOCOLS


MOUNTS = pathlib.Path("/proc/self/mountinfo")


def is_on_own_disk(path: AnyPath) -> bool:
    """Whether a path is on a disk that is deleted with a container: that of ``/``, or an ``emptyDir`` of its pod."""
    if not is_local(path):
        return False
    real = pathlib.Path(os.path.realpath(path))
    mounted = next(place for place in (real, *real.parents) if place.is_mount())
    return mounted == mounted.parent or _is_empty_dir(mounted)


def _is_empty_dir(volume: pathlib.Path) -> bool:
    """Whether a volume is deleted with its pod; one in memory is a tmpfs. Only Linux shows that."""
    try:
        with MOUNTS.open(encoding="utf-8", errors="surrogateescape", newline="\n") as file:
            lines = list(file)
    except OSError:
        return False
    empty = False
    for line in lines:
        mount, _, system = line.partition(" - ")
        root, escaped = mount.split(" ")[3:5]
        place = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), escaped)
        if place == str(volume):  # the last one hides others
            empty = "/kubernetes.io~empty-dir/" in root or (root == "/" and system.startswith("tmpfs "))
    return empty


def sibling(path: AnyPath, ending: str) -> AnyPath:
    """The path in the same folder with an ending appended to its name."""
    return cast(AnyPath, path.parent / f"{path.name}{ending}")


def indexed(path: AnyPath, index: int) -> AnyPath:
    """The file of an instance of a mapped task: ``r.jsonl`` becomes ``r.0.jsonl``, ``r.csv.gz`` ``r.0.csv.gz``."""
    packed = path.suffix if path.suffix.lower() == ".gz" else ""
    plain = path.parent / path.name.removesuffix(packed)
    return cast(AnyPath, path.parent / f"{plain.stem}.{index}{plain.suffix}{packed}")


@contextmanager
def writing(path: AnyPath) -> Iterator[None]:
    """Add the name of the file to errors of the system.

    :raises CannotWrite: for any ``OSError``
    """
    try:
        yield
    except CannotWrite:  # it names another file already
        raise
    except OSError as wrong:
        raise CannotWrite(str(path), wrong.strerror or str(wrong) or type(wrong).__name__) from wrong


def remove(path: AnyPath) -> None:
    """Remove a file if it exists, and the draft that a killed writer has left of it."""
    with writing(path), suppress(FileNotFoundError):
        if is_local(path):
            delete_draft_of(path)
        path.unlink()


def private_folder(folder: pathlib.Path, mode: int = 0o700) -> None:
    """Create a folder and its parents for this user only. Existing folders are not changed."""
    missing = [folder, *folder.parents]
    for parent in reversed(missing):
        if not parent.exists():
            parent.mkdir(mode=mode, exist_ok=True)


def unwritable(path: AnyPath) -> str | None:
    """Why a file cannot be written; None if it probably can. A local folder is created."""
    if not is_local(path):
        return _no_bucket(path)
    if path.is_dir():
        return "it is a folder"
    try:
        private_folder(path.parent)
        check_folder(path.parent)
        with draft_beside(path):
            pass
        if os.path.lexists(path):
            os.close(open_private(path, os.O_RDONLY))
    except OSError as wrong:
        return wrong.strerror or type(wrong).__name__
    return None


def private_file(path: pathlib.Path) -> IO[bytes]:
    """Open a local file for appending, unbuffered and for this user only.

    :raises CannotWrite: if it cannot be opened, or others may have put it there
    """
    with writing(path):
        private_folder(path.parent)
        return os.fdopen(open_private(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT), "ab", buffering=0)


def read_own(path: AnyPath) -> IO[bytes]:
    """Open a file of an earlier try.

    :raises CannotRead: if the system refuses, or if it is local and others may have put it there
    :raises FileNotFoundError: if it does not exist
    """
    try:
        if is_local(path):
            return os.fdopen(open_private(path, os.O_RDONLY), "rb")
        return cast("IO[bytes]", path.open("rb"))
    except PermissionError as refused:
        raise CannotRead(str(path), refused.strerror or str(refused)) from refused


def read_any(path: AnyPath) -> IO[bytes]:
    """Open a file of any owner, such as a source.

    :raises PermissionError: if it is a local pipe or device, which would block the task
    """
    return os.fdopen(open_regular(path), "rb") if is_local(path) else cast("IO[bytes]", path.open("rb"))


LONGEST_LINE = 64 << 20
"""Bytes of a line of the package's own files; a rejected row has at most about ten million."""


def each_line(file: IO[bytes] | io.BufferedIOBase, name: object) -> Iterator[bytes]:
    """The lines of a file, each with its line end.

    Files of an ``ObjectStoragePath`` need not be iterable (Airflow 3.1.0), and those of S3 have no limit for a line.

    :param name: name of the file, for the message
    :raises CannotRead: if a line is too long to be held in memory
    """
    line = bytearray()
    while block := file.read(_BLOCK):
        first, *others = block.split(b"\n")
        line += first
        for other in others:
            yield bytes(line) + b"\n"
            line = bytearray(other)
        if len(line) >= LONGEST_LINE:
            raise too_long(name)
    if line:
        yield bytes(line)


_BLOCK = 1 << 20


def too_long(name: object) -> CannotRead:
    """The error for a line that does not end, or quotes that are not closed."""
    return CannotRead(str(name), f"one of its lines has over {LONGEST_LINE:,} bytes; remove the file, or restore it")


def append(file: IO[bytes], data: bytes) -> None:
    """Append all of the data to a file of :func:`private_file`, or nothing: a partial line would damage the next one.

    :raises OSError: if it does not fit, or the disk fails
    """
    size = os.fstat(file.fileno()).st_size
    try:
        rest = memoryview(data)
        while rest:  # a nearly full disk accepts only a part
            rest = rest[file.write(rest) :]
    except OSError:
        os.ftruncate(file.fileno(), size)  # needs no space
        raise


@contextmanager
def atomic_writer(path: AnyPath, mode: Literal["w", "wb"] = "w") -> Iterator[IO[Any]]:
    """Write a complete file or nothing: the final name never has a partial file.

    Local files are written beside the final name, forced to the disk and renamed. For an object store the file is
    written here first and then sent as one object, because closing a half-written object would publish it.

    :param mode: ``w`` for UTF-8 text (line ends stay as they are written) or ``wb``
    :raises CannotWrite: if the file cannot be written; an existing file stays unchanged. Errors that the caller raises
        inside the block are passed on
    """
    with ExitStack() as stack:
        draft = None
        with writing(path):
            if is_local(path):
                private_folder(path.parent)
                check_folder(path.parent)
                number, draft = stack.enter_context(draft_beside(path))
            else:
                number = stack.enter_context(draft_without_name())
        with _NamedFile(number, path) as raw, io.BufferedWriter(raw) as binary:
            if mode == "wb":
                yield binary
            else:
                with io.TextIOWrapper(binary, encoding="utf-8", newline="") as text:
                    yield text
        with writing(path):
            if draft is not None:
                os.fsync(number)
                draft.replace(cast(pathlib.Path, path))
                _force(path.parent)
            else:
                _send(number, path)


# -- helpers ------------------------------------------------------------------------------------------------


class _NamedFile(io.FileIO):
    """A draft whose errors name the final file."""

    def __init__(self, draft: int, final: AnyPath) -> None:
        self._final = final
        super().__init__(draft, "wb", closefd=False)

    def write(self, data: Any, /) -> int:
        with writing(self._final):
            return super().write(data)

    def close(self) -> None:
        with writing(self._final):
            super().close()


def _of_text(text: str) -> AnyPath:
    if not text.strip():
        raise ValueError("a path is empty: a template renders an empty value like this; name a file")
    if is_content(text):
        raise ValueError(
            "a list or several lines, as text, stand in place of a path; if a template turned a list into text, give "
            "the task's output (extract.output), or set render_template_as_native_obj=True for the DAG"
        )
    scheme, found, rest = text.partition("://")
    if found and scheme.lower() not in LOCAL_PROTOCOLS:
        raise ValueError(
            f"a {scheme}:// URL must be given as a path object, which knows its connection: "
            'ObjectStoragePath("...", conn_id="...")'
        )
    if text == "None":
        raise ValueError("a path is the text 'None': a template renders a missing value like this; name a file")
    return pathlib.Path(rest).absolute() if found else _at_home(pathlib.Path(text))


def _at_home(path: pathlib.Path) -> pathlib.Path:
    """The absolute path. A leading ``~`` is the home folder, as in a shell.

    :raises ValueError: if there is no such user
    """
    try:
        return path.expanduser().absolute()
    except RuntimeError:
        raise ValueError("a path begins with ~, but the home folder is not known; write it out") from None


def _protocol(path: object) -> str:
    return str(getattr(path, "protocol", ""))


def _force(folder: pathlib.Path) -> None:
    """Flush the entries of a folder to the disk."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _no_bucket(path: AnyPath) -> str | None:
    """Whether the bucket of an object store is missing. Stores without buckets create what is missing."""
    store: Any = getattr(path, "fs", None)
    if store is None or _protocol(path) not in _WITH_BUCKETS:
        return None
    bucket = cast("Any", path).path.partition("/")[0]
    try:
        store.info(bucket)
    except FileNotFoundError:
        return f"there is no bucket {bucket!r}"
    except PermissionError:  # it may write objects without the right to read about the bucket
        return None
    return None


_WITH_BUCKETS = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az"})


def _send(draft: int, path: AnyPath) -> None:
    """Send a file as one object, by the store's own upload if the path has a file system."""
    os.lseek(draft, 0, os.SEEK_SET)
    store = getattr(path, "fs", None)
    if store is not None and _protocol(path) not in COPY_LINKS:
        store.put_file(f"/dev/fd/{draft}", cast(Any, path).path)
        return
    with ExitStack() as opened:
        file = opened.enter_context(open(draft, "rb", closefd=False))
        if store is None:
            shutil.copyfileobj(file, opened.enter_context(path.open("wb")))
        else:
            named = opened.enter_context(tempfile.NamedTemporaryFile(prefix="crm-"))
            shutil.copyfileobj(file, named)
            named.flush()
            store.put_file(named.name, cast(Any, path).path)


COPY_LINKS = frozenset({"sftp", "ssh"})
"""Stores whose upload of a link, such as ``/dev/fd/3``, makes a link and not a file (asyncssh)."""
