"""On a machine with several users: what a load writes is for its user alone, and what others plant is refused."""

from __future__ import annotations

import os
import pickle
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from crm_provider.load.checkpoint import Checkpoint, FileCheckpoints
from crm_provider.load.extract import Extract
from crm_provider.load.fingerprints import Fingerprints
from crm_provider.load.locking import FileLock
from crm_provider.load.parts import Owner, Parts
from crm_provider.load.paths import CannotRead, CannotWrite, atomic_writer, private_file, read_own, unwritable
from crm_provider.load.planted import A_LINK, NOT_OURS, is_planted
from crm_provider.load.reject_lines import Reject
from crm_provider.load.rejects import RejectsFile
from crm_provider.load.report import write_report
from crm_provider.load.rows import Contact, Row
from crm_provider.load.work import Fate, WorkTable
from crm_provider.paging import ListedPage, Page

from .test_extract import FakeClient, records

Write = Callable[[Path], object]


@pytest.fixture
def no_umask() -> Iterator[None]:
    """As under a service manager that does not set one."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A folder such as ``/tmp``."""
    made = tmp_path / "shared"
    made.mkdir()
    made.chmod(0o1777)
    return made


def rejects(path: Path) -> None:
    file = RejectsFile(path)
    file.start()
    file.write(Reject(1, {"email": "ada@example.com"}, "INVALID_INPUT", "no"))
    file.finish()


def state(path: Path) -> None:
    """Left open: its journal and its lock are beside it."""
    prints = Fingerprints(path, b"secret")
    prints.remember(Contact(email="ada@example.com", attributes={}))
    prints.sync()
    prints.finish()
    prints.remember(Contact(email="bob@example.com", attributes={}))
    prints.close()


def parts(path: Path) -> None:
    made = Parts(path, Owner(work="x"))
    made.add(ListedPage(number=0, page=Page([{"id": "1"}], 1), fresh=[{"id": "1"}]))
    made.close()


WRITERS: dict[str, Write] = {
    "rejects": rejects,
    "rejects as CSV": lambda path: rejects(path.with_suffix(".csv")),
    "state, journal and lock": state,
    "checkpoint": lambda path: FileCheckpoints(path).save(Checkpoint(epoch=0, fingerprint="x")),
    "report": lambda path: write_report(path, "# Load"),
    "pages of an extract": parts,
}


@pytest.mark.parametrize("name", WRITERS)
def test_files_are_private_whatever_the_umask(name: str, tmp_path: Path, no_umask: None) -> None:
    WRITERS[name](tmp_path / "new" / "folder" / "x.jsonl")
    made = [*(tmp_path / "new").rglob("*")]
    assert len(made) >= 2
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in [tmp_path / "new", *made]}
    assert modes == {path.name: 0o700 if path.is_dir() else 0o600 for path in [tmp_path / "new", *made]}


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs Linux's /proc")
def test_the_tables_of_a_load_have_no_name_and_are_private(no_umask: None) -> None:
    before = set(open_files())
    table = WorkTable()
    for number in range(1, 3001):  # more than SQLite keeps in memory
        table.add(Row(number, {"email": f"{number}@example.com", "note": "x" * 2000}), Fate.SEND, str(number))
    made = {link: mode for link, mode in open_files() if (link, mode) not in before}
    table.close()
    assert made, "the table is on the disk"
    assert [link for link in made if not link.endswith("(deleted)")] == []
    assert set(made.values()) == {0o600}


def open_files() -> Iterator[tuple[str, int]]:
    for link in Path("/proc/self/fd").iterdir():
        try:
            about = link.stat()
            if stat.S_ISREG(about.st_mode):
                yield str(link.readlink()), stat.S_IMODE(about.st_mode)
        except OSError:  # the one that lists them
            continue


# -- what others may have put there ------------------------------------------------------------------------------

OPENERS: dict[str, Write] = {
    "a file that grows": private_file,
    "a file of an earlier try": read_own,
    "a lock": lambda path: FileLock(path, "it").acquire(),
    "a checkpoint": lambda path: FileCheckpoints(path).load(),
}


@pytest.mark.parametrize("name", OPENERS)
@pytest.mark.parametrize(
    ("plant", "reason", "told"),
    [
        pytest.param(Path.symlink_to, "symbolic link", A_LINK, id="link"),
        pytest.param(Path.hardlink_to, "another user", NOT_OURS, id="second name"),
    ],
)
def test_what_leads_to_another_file_is_refused_in_a_folder_open_to_all(
    name: str, plant: Callable[[Path, Path], None], reason: str, told: str, shared: Path
) -> None:
    victim, path = shared.parent / "victim", shared / "x"
    victim.write_bytes(b"precious")
    plant(path, victim)
    with pytest.raises((PermissionError, CannotWrite), match=reason):
        OPENERS[name](path)
    assert victim.read_bytes() == b"precious"
    assert unwritable(path) == told


@pytest.mark.parametrize("name", OPENERS)
def test_a_link_in_an_own_folder_is_the_users_business(name: str, shared: Path) -> None:
    shared.chmod(0o755)
    (shared / "x").symlink_to(shared.parent / "elsewhere")
    FileCheckpoints(shared.parent / "elsewhere").save(Checkpoint(epoch=0, fingerprint="x"))
    OPENERS[name](shared / "x")
    assert unwritable(shared / "x") is None


def test_a_file_that_is_not_there_yet_can_be_written(shared: Path) -> None:
    assert unwritable(shared / "x") is None
    private_file(shared / "x").close()
    assert stat.S_IMODE((shared / "x").stat().st_mode) == 0o600


def test_what_others_put_beside_an_extract_is_left_to_them(shared: Path) -> None:
    name = f"x.part-{Owner(work='x').mark}-0-000000"
    (shared / name).symlink_to(shared.parent / "victim")
    (shared.parent / "victim").write_text('{"version": 1}\n')
    assert Parts(shared / "x", Owner(work="y")).sweep() == []
    assert (shared / name).is_symlink()
    with pytest.raises(PermissionError, match="symbolic link"):
        list(Parts(shared / "x", Owner(work="x")).pages())


def test_what_others_have_planted_is_named(shared: Path) -> None:
    (shared / "x").symlink_to(shared.parent / "victim")
    with pytest.raises(CannotRead, match=f"{shared / 'x'} cannot be read: it is a symbolic link") as planted:
        FileCheckpoints(shared / "x").load()
    again = pickle.loads(pickle.dumps(planted.value))
    assert (str(again), again.what) == (str(planted.value), str(shared / "x"))


def test_a_page_that_cannot_be_read_is_not_told_as_a_file_that_cannot_be_written(shared: Path) -> None:
    target = shared / "contacts.csv"
    client = FakeClient(records(0, 12))
    made = Extract(client, "contacts", target)  # type: ignore[arg-type]
    pages = Parts.pages
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Parts, "pages", lambda self: [read_own(shared / "x")] if client.reads else pages(self))
        (shared / "x").symlink_to(shared / "y")
        with pytest.raises(CannotRead, match="symbolic link"):
            made.run()
    assert not target.exists()


def test_a_pipe_holds_nobody(shared: Path) -> None:
    os.mkfifo(shared / "x")
    with pytest.raises(PermissionError, match="another user"):
        read_own(shared / "x")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away; the rule itself is tested below")
def test_a_file_of_another_user_is_neither_written_nor_believed(shared: Path) -> None:
    path = shared / "x"
    path.write_text("{}")
    os.chown(path, 12345, -1)
    for opened in OPENERS.values():
        with pytest.raises((PermissionError, CannotWrite), match="another user"):
            opened(path)
    assert path.read_text() == "{}"


def about(mode: int, owner: int, links: int = 1) -> Any:
    return SimpleNamespace(st_mode=mode, st_uid=owner, st_nlink=links)


ME, ROOT, OTHER = 1000, 0, 1001
FILE, PIPE = stat.S_IFREG | 0o600, stat.S_IFIFO | 0o600


@pytest.mark.parametrize(
    ("file", "folder", "planted"),
    [
        (about(FILE, ME), about(0o1777, ROOT), False),
        (about(FILE, ROOT), about(0o1777, ROOT), False),
        (about(FILE, OTHER), about(0o1777, ROOT), True),
        (about(FILE, ME, links=2), about(0o1777, ROOT), True),
        (about(PIPE, ME), about(0o1777, ROOT), True),
        (about(FILE, OTHER), about(0o755, ME), False),
        (about(FILE, OTHER), about(0o1775, ROOT), False),
        (about(FILE, OTHER), about(0o777, ROOT), False),
    ],
    ids=[
        "own", "of the folder's owner", "of another", "own, with another name", "a pipe", "in an own folder",
        "in a group's folder", "on a share that knows no owners",
    ],
)  # fmt: skip
def test_who_may_have_put_it_there(file: Any, folder: Any, planted: bool) -> None:
    assert is_planted(file, folder, ME) is planted


def test_what_is_written_whole_takes_the_place_of_a_link(shared: Path) -> None:
    """The new file is made under a name that nobody can guess, and renamed."""
    victim, path = shared.parent / "victim", shared / "x"
    victim.write_bytes(b"precious")
    path.symlink_to(victim)
    with atomic_writer(path) as file:
        file.write("new")
    assert (path.is_symlink(), path.read_text(), victim.read_bytes()) == (False, "new", b"precious")
