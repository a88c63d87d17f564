"""On a shared machine: a load's files are private, and files planted by others are refused."""

from __future__ import annotations

import os
import pickle
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from crm_provider.client.pagination import ListedPage, Page
from crm_provider.extract.extractor import Extractor
from crm_provider.extract.partial_pages import Owner, PartialPages
from crm_provider.files import paths
from crm_provider.files.fingerprints import lines_of
from crm_provider.files.lock import FileLock
from crm_provider.files.paths import CannotRead, CannotWrite, atomic_writer, private_file, read_own, unwritable
from crm_provider.files.private import A_LINK, NOT_OURS, OPEN_FOLDER
from crm_provider.load.rejects.file import RejectedRows, RejectsFile
from crm_provider.load.rejects.formats import Reject
from crm_provider.load.report import write_report
from crm_provider.load.rows import Contact, Row, SourceError
from crm_provider.load.sources.source import open_source
from crm_provider.load.state import checkpoint
from crm_provider.load.state.checkpoint import Checkpoint, FileCheckpoints
from crm_provider.load.state.fingerprints import Fingerprints
from crm_provider.load.state.temp_tables import RowStatus, StagedRows

from .test_extract import FakeClient, records

Write = Callable[[Path], object]


@pytest.fixture
def no_umask() -> Iterator[None]:
    """As under a service manager that sets no umask."""
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
    """A file left open, with its journal and its lock beside it."""
    prints = Fingerprints(path, b"secret")
    prints.remember(Contact(email="ada@example.com", attributes={}))
    prints.sync()
    prints.finish()
    prints.remember(Contact(email="bob@example.com", attributes={}))
    prints.close()


def parts(path: Path) -> None:
    made = PartialPages(path, Owner(work="x"))
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
def test_files_are_private_with_any_umask(name: str, tmp_path: Path, no_umask: None) -> None:
    WRITERS[name](tmp_path / "new" / "folder" / "x.jsonl")
    made = [*(tmp_path / "new").rglob("*")]
    assert len(made) >= 2
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in [tmp_path / "new", *made]}
    assert modes == {path.name: 0o700 if path.is_dir() else 0o600 for path in [tmp_path / "new", *made]}


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs Linux's /proc")
def test_tables_of_a_load_have_no_name_and_are_private(no_umask: None) -> None:
    before = set(open_files())
    table = StagedRows()
    for number in range(1, 3001):  # more than SQLite keeps in memory
        table.add(Row(number, {"email": f"{number}@example.com", "note": "x" * 2000}), RowStatus.SEND)
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
        except OSError:  # the descriptor that lists them
            continue


# -- files planted by others -------------------------------------------------------------------------------------

OPENERS: dict[str, Write] = {
    "a file that grows": private_file,
    "a file of an earlier try": read_own,
    "a lock": lambda path: FileLock(path, "it").acquire(),
    "a checkpoint": lambda path: FileCheckpoints(path).load(),
}


MODES = {"sticky, as /tmp": 0o1777, "open to all": 0o777, "writable for others": 0o702}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", [*OPENERS, *WRITERS])
def test_folder_that_others_can_write_to_is_refused(name: str, mode: str, shared: Path) -> None:
    shared.chmod(MODES[mode])
    (shared / "x").write_text("{}")
    before = sorted(shared.iterdir())
    with pytest.raises(OSError, match="every user of the machine can write to its folder"):
        (OPENERS.get(name) or WRITERS[name])(shared / "x")
    assert unwritable(shared / "x") == OPEN_FOLDER
    assert sorted(shared.iterdir()) == before
    assert (shared / "x").read_text() == "{}"


def test_private_folder_below_a_writable_folder_is_refused(shared: Path) -> None:
    mine = shared / "mine"
    mine.mkdir(mode=0o700)
    private_file(mine / "x").close()  # below a sticky folder nobody else can move it
    shared.chmod(0o777)
    with pytest.raises(CannotWrite, match="every user of the machine can write"):
        private_file(mine / "x")


def test_foreign_rejects_are_not_sent(shared: Path) -> None:
    rejects(shared.parent / "r.jsonl")
    (shared.parent / "r.jsonl").replace(shared / "r.jsonl")
    with pytest.raises(
        SourceError, match=r"r\.jsonl cannot be read: every user of the machine can write to its folder"
    ):
        RejectedRows(shared / "r.jsonl")


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


@needs_root
@pytest.mark.parametrize("name", OPENERS)
def test_folder_of_another_user_is_refused(name: str, shared: Path) -> None:
    shared.chmod(0o755)
    (shared / "x").write_text("{}")
    os.chown(shared, 12345, 12345)
    with pytest.raises(OSError, match="its folder belongs to another user"):
        OPENERS[name](shared / "x")
    os.chown(shared, 12345, os.getegid())
    shared.chmod(0o775)  # shared with one of our groups
    OPENERS[name](shared / "x")


@needs_root
@pytest.mark.parametrize("name", OPENERS)
def test_link_of_another_user_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir(mode=0o700)
    (tmp_path / "mine" / "x").write_text("{}")
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    os.lchown(tmp_path / "link", 12345, 12345)
    with pytest.raises(OSError, match="a link of another user leads to its folder"):
        OPENERS[name](tmp_path / "link" / "x")


@pytest.fixture
def group(tmp_path: Path) -> Path:
    """A folder that a group can write to."""
    made = tmp_path / "group"
    made.mkdir()
    made.chmod(0o770)
    return made


@pytest.mark.parametrize("name", OPENERS)
@pytest.mark.parametrize(
    ("plant", "reason"),
    [pytest.param(Path.symlink_to, A_LINK, id="link"), pytest.param(Path.hardlink_to, NOT_OURS, id="second name")],
)
def test_link_to_another_file_is_refused_in_a_group_folder(
    name: str, plant: Callable[[Path, Path], None], reason: str, group: Path
) -> None:
    victim, path = group.parent / "victim", group / "x"
    victim.write_bytes(b"precious")
    plant(path, victim)
    with pytest.raises((PermissionError, CannotWrite), match=reason.split(",", maxsplit=1)[0]):
        OPENERS[name](path)
    assert victim.read_bytes() == b"precious"
    assert unwritable(path) == reason


@needs_root
def test_file_of_a_user_outside_the_group_is_refused(group: Path) -> None:
    path = group / "x"
    path.write_text("{}")
    os.chown(path, 12345, 12345)
    for opened in OPENERS.values():
        with pytest.raises((PermissionError, CannotWrite), match="another user"):
            opened(path)
    assert path.read_text() == "{}"
    os.chown(path, 12345, group.stat().st_gid)  # of a member
    for opened in OPENERS.values():
        opened(path)


@pytest.mark.parametrize("name", OPENERS)
def test_link_in_an_own_folder_is_allowed(name: str, tmp_path: Path) -> None:
    (tmp_path / "x").symlink_to(tmp_path / "elsewhere")
    FileCheckpoints(tmp_path / "elsewhere").save(Checkpoint(epoch=0, fingerprint="x"))
    OPENERS[name](tmp_path / "x")
    assert unwritable(tmp_path / "x") is None


def pipe(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("name", OPENERS)
@pytest.mark.parametrize("make", [pipe, device])
def test_pipe_or_device_does_not_block(name: str, make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / "x")
    with pytest.raises((PermissionError, CannotWrite), match=r"not an ordinary file|every user of the machine"):
        OPENERS[name](tmp_path / "x")
    assert unwritable(tmp_path / "x") is not None


@pytest.mark.parametrize("make", [pipe, device])
@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_pipe_as_a_source_does_not_block(make: Callable[[Path], None], suffix: str, tmp_path: Path) -> None:
    make(tmp_path / f"leads.{suffix}")
    with pytest.raises(SourceError, match="is not an ordinary file but a pipe or a device; write a file first"):
        list(open_source(tmp_path / f"leads.{suffix}").rows())


def test_line_without_an_end_is_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "LONGEST_LINE", 1000)
    monkeypatch.setattr(checkpoint, "LARGEST", 1000)
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"row": ' + b"1" * 1000)
    with pytest.raises(SourceError, match=r"x\.jsonl cannot be read: one of its lines has over 1,000 bytes"):
        RejectedRows(path)
    with pytest.raises(CannotRead, match="one of its lines has over 1,000 bytes"):
        list(lines_of(path))
    assert FileCheckpoints(path).load() is None


def test_missing_file_can_be_written(group: Path) -> None:
    assert unwritable(group / "x") is None
    private_file(group / "x").close()
    assert stat.S_IMODE((group / "x").stat().st_mode) == 0o600


def test_foreign_files_beside_an_extract_are_kept(group: Path) -> None:
    name = f"x.part-{Owner(work='x').mark}-0"
    (group / name).symlink_to(group.parent / "victim")
    (group.parent / "victim").write_text('{"version": 1}\n')
    assert PartialPages(group / "x", Owner(work="y")).sweep() == []
    assert (group / name).is_symlink()
    with pytest.raises(PermissionError, match="symbolic link"):
        list(PartialPages(group / "x", Owner(work="x")).pages())


def test_error_names_the_planted_file(group: Path) -> None:
    (group / "x").symlink_to(group.parent / "victim")
    with pytest.raises(CannotRead, match=f"{group / 'x'} cannot be read: it is a symbolic link") as put_there:
        FileCheckpoints(group / "x").load()
    again = pickle.loads(pickle.dumps(put_there.value))
    assert (str(again), again.what) == (str(put_there.value), str(group / "x"))


def test_unreadable_page_is_not_reported_as_an_unwritable_file(group: Path) -> None:
    target = group / "contacts.csv"
    client = FakeClient(records(0, 12))
    made = Extractor(client, "contacts", target)  # type: ignore[arg-type]
    pages = PartialPages.pages
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(PartialPages, "pages", lambda self: [read_own(group / "x")] if client.reads else pages(self))
        (group / "x").symlink_to(group / "y")
        with pytest.raises(CannotRead, match="symbolic link"):
            made.run()
    assert not target.exists()


def test_file_written_whole_replaces_a_link(group: Path) -> None:
    """The new file is created under an unpredictable name and then renamed."""
    victim, path = group.parent / "victim", group / "x"
    victim.write_bytes(b"precious")
    path.symlink_to(victim)
    with atomic_writer(path) as file:
        file.write("new")
    assert (path.is_symlink(), path.read_text(), victim.read_bytes()) == (False, "new", b"precious")
