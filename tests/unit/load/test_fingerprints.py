"""Fingerprints: a row is called unchanged only if exactly these values were loaded, whatever happened to the files."""

from __future__ import annotations

import gzip
import logging
import stat
import subprocess
import sys
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from upath import UPath

from crm_provider.client.settings import Settings
from crm_provider.files import fingerprints as fingerprint_table
from crm_provider.files import paths
from crm_provider.files.fingerprints import PrintTable
from crm_provider.files.journal import Journal
from crm_provider.files.lock import InUse
from crm_provider.files.paths import CannotRead
from crm_provider.load.rows import Contact, SourceError
from crm_provider.load.state.fingerprints import TITLE, Fingerprints, secret_for, write_state

SECRET = secret_for(Settings(api_key="key"))
PLACES = [("disk", "s.txt"), ("disk", "s.txt.gz"), ("store", "s.txt"), ("store", "s.txt.gz")]


@pytest.fixture(params=PLACES, ids="-".join)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    place, name = request.param
    return tmp_path / "new" / name if place == "disk" else UPath(f"memory://s/{uuid.uuid4().hex}/{name}")


def contact(n: int, **attributes: Any) -> Contact:
    return Contact(f"person{n}@secret.example", attributes or {"name": "Ann"})


def loaded(path: Any, *contacts: Contact, secret: bytes = SECRET, **options: Any) -> None:
    prints = Fingerprints(path, secret, **options)
    for one in contacts:
        prints.remember(one)
    prints.finish()


def is_unchanged(path: Any, one: Contact, secret: bytes = SECRET, **options: Any) -> bool:
    prints = Fingerprints(path, secret, **options)
    try:
        return prints.unchanged(one)
    finally:
        prints.close()


def names(path: Any) -> list[str]:
    return sorted(p.name for p in path.parent.iterdir() if not p.name.endswith(".lock"))


def test_contacts_are_unchanged_after_success(path: Any) -> None:
    assert not is_unchanged(path, contact(1))
    loaded(path, contact(1), contact(2))
    assert is_unchanged(path, contact(1)) and is_unchanged(path, contact(2))
    assert not is_unchanged(path, contact(3))
    loaded(path, contact(3))
    assert all(is_unchanged(path, contact(n)) for n in (1, 2, 3))
    assert names(path) == [path.name]


BEFORE = Contact("Ann@b.com", {"a": 1, "b": ["x", None]}, {"url": "u"})


@pytest.mark.parametrize(
    ("now", "same"),
    [
        (BEFORE, True),
        (Contact("Ann@b.com", {"b": ["x", None], "a": 1}), True),  # another order; no origin, which only creations use
        (Contact("ann@b.com", BEFORE.attributes), False),
        (Contact("Ann@b.com", {"a": 1}), False),
        (Contact("Ann@b.com", {**BEFORE.attributes, "c": None}), False),
        (Contact("Ann@b.com", {**BEFORE.attributes, "a": "1"}), False),
        (Contact("Ann@b.com", {**BEFORE.attributes, "a": True}), False),
        (Contact("Ann@b.com", {**BEFORE.attributes, "a": Decimal(1)}), False),
    ],
)
def test_change_of_values_is_detected(now: Contact, same: bool, tmp_path: Path) -> None:
    loaded(tmp_path / "s", BEFORE)
    assert is_unchanged(tmp_path / "s", now) is same


def test_change_of_options_is_detected(tmp_path: Path) -> None:
    path = tmp_path / "s"
    loaded(path, contact(1), effect={"list_ids": ["a"]})
    assert is_unchanged(path, contact(1), effect={"list_ids": ["a"]})
    assert not is_unchanged(path, contact(1), effect={"list_ids": ["b"]})
    assert not is_unchanged(path, contact(1))


def test_only_the_last_values_of_a_contact_are_kept(path: Any) -> None:
    loaded(path, contact(1, a="old"))
    loaded(path, contact(1, a="new"))
    assert is_unchanged(path, contact(1, a="new"))
    assert not is_unchanged(path, contact(1, a="old"))


@pytest.mark.parametrize("end", ["close", "finish"])
def test_forgotten_contact_is_not_unchanged(end: str, path: Any) -> None:
    loaded(path, contact(1), contact(2))
    prints = Fingerprints(path, SECRET)
    prints.forget(contact(1))
    prints.forget(contact(9))
    assert not prints.unchanged(contact(1))
    getattr(prints, end)()
    assert not is_unchanged(path, contact(1))
    assert is_unchanged(path, contact(2))


def test_unfinished_run_is_recovered(path: Any) -> None:
    loaded(path, contact(1))
    prints = Fingerprints(path, SECRET)
    prints.remember(contact(2))
    prints.remember(contact(2))
    prints.sync()
    prints.close()
    assert all(is_unchanged(path, contact(n)) for n in (1, 2))
    assert len(names(path)) == 2
    loaded(path)
    assert all(is_unchanged(path, contact(n)) for n in (1, 2))
    assert names(path) == [path.name]


def test_reading_writes_nothing(path: Any) -> None:
    assert not is_unchanged(path, contact(1))
    assert not path.parent.exists() or names(path) == []


def test_files_contain_no_address_and_no_value(tmp_path: Path) -> None:
    path = tmp_path / "s.txt"
    loaded(path, contact(1))
    prints = Fingerprints(path, SECRET)
    prints.remember(contact(2, name="Bob"))
    prints.close()
    for file in tmp_path.iterdir():
        body = file.read_bytes().lower()
        assert not any(word in body for word in (b"person", b"secret", b"ann", b"bob", b"key"))
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    other = tmp_path / "other.txt"
    loaded(other, contact(1), secret=b"other")
    mine, theirs = (file.read_text().splitlines()[1].split() for file in (path, other))
    assert not set(mine) & set(theirs)


@pytest.mark.parametrize(
    "other", [{"api_key": "new"}, {"base_url": "http://localhost:1"}, {"developer_mode": True}], ids=str
)
def test_another_key_matches_nothing(other: dict[str, Any], path: Any, caplog: pytest.LogCaptureFixture) -> None:
    loaded(path, contact(1))
    secret = secret_for(Settings(**{"api_key": "key", **other}))
    with caplog.at_level(logging.INFO):
        assert not is_unchanged(path, contact(1), secret)
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert "another API key or connection" in caplog.text
    loaded(path, contact(2), secret=secret)
    assert is_unchanged(path, contact(2), secret) and not is_unchanged(path, contact(1))


def packed(path: Any, body: bytes) -> bytes:
    return gzip.compress(body) if path.name.endswith(".gz") else body


@pytest.mark.parametrize(
    "body",
    [
        b"crm_provider fingerprints 1",
        b"crm_provider fingerprints 9 x\n",
        b"{CHECK}\nxyz\n",
        b"{CHECK}\n" + b"0" * 64 + b"\n",
    ],
)
def test_unreadable_state_file_counts_as_empty(body: bytes, path: Any, caplog: pytest.LogCaptureFixture) -> None:
    loaded(path, contact(1))
    content = gzip.decompress(path.read_bytes()) if path.name.endswith(".gz") else path.read_bytes()
    path.write_bytes(packed(path, body.replace(b"{CHECK}\n", content)))
    with caplog.at_level(logging.INFO):
        assert not is_unchanged(path, contact(1))
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    loaded(path, contact(2))
    assert is_unchanged(path, contact(2)) and not is_unchanged(path, contact(1))


@pytest.mark.parametrize("body", [b"id,email\n", b"\xff\xff", b"crm_provider"])
def test_foreign_file_is_never_replaced(body: bytes, tmp_path: Path) -> None:
    path = tmp_path / "leads.csv"
    path.write_bytes(body)
    with pytest.raises(SourceError, match=r"leads.csv would be overwritten, but it is not a state file"):
        Fingerprints(path, SECRET).load()
    assert path.read_bytes() == body


@pytest.mark.parametrize("body", [b"plain", gzip.compress(b"x" * 99, mtime=0)[:-9]])
def test_damaged_gzip_file_counts_as_empty(body: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "s.gz"
    path.write_bytes(body)
    assert not is_unchanged(path, contact(1))
    assert "counts as empty" in caplog.text


def test_line_without_an_end_is_not_read_and_its_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "LONGEST_LINE", 100)
    (tmp_path / "s").write_text(f"{TITLE} {'x' * 100}")
    with pytest.raises(CannotRead, match=r"/s cannot be read: one of its lines has over 100 bytes"):
        Fingerprints(tmp_path / "s", SECRET).load()


def test_empty_file_is_an_empty_state(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "s").touch()
    assert not is_unchanged(tmp_path / "s", contact(1))
    assert not caplog.records


@pytest.mark.parametrize("damage", [b"x\n", b"\xff\n"])
def test_damaged_journal_invalidates_all_fingerprints(
    damage: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "s"
    loaded(path, contact(1))
    (tmp_path / "s.journal").write_bytes(damage)
    assert not is_unchanged(path, contact(1))
    assert len(caplog.records) == 1
    loaded(path, contact(2))
    assert is_unchanged(path, contact(2)) and names(path) == ["s"]


def test_unfinished_run_with_another_key(tmp_path: Path) -> None:
    path = tmp_path / "s"
    loaded(path, contact(1))
    other = Fingerprints(path, b"other")
    other.remember(contact(1, name="Bob"))
    other.close()
    assert not is_unchanged(path, contact(1))
    assert is_unchanged(path, contact(1, name="Bob"), b"other")


# -- file contents ------------------------------------------------------------------------------------------

HEADER = "crm_provider fingerprints 1 a0414f9a1f4ce64a"
KEY, PRINT = "cf3ccd08bbefcdad146ea70b666e5ed9", "2b7a2c0f686aad51a17f4cada590254e"


def test_file_format_is_that_of_earlier_versions(path: Any) -> None:
    """Another format would make every load send every row again. It needs a new number in the header."""
    prints = Fingerprints(path, b"secret", effect={"b": 1, "a": [2]})
    ann = Contact("Ann@x.org", {"b": Decimal("1.50"), "a": "Ä"})
    prints.remember(ann)
    prints.forget(ann)
    prints.remember(ann)
    prints.close()
    journal = Journal(path.parent / f"{path.name}.journal")
    assert list(journal.lines()) == [HEADER, f"{KEY} {PRINT}", f"{KEY} -", f"{KEY} {PRINT}"]
    loaded(path, secret=b"secret")
    assert plain(path) == f"{HEADER}\n{KEY} {PRINT}\n"
    assert is_unchanged(path, ann, b"secret", effect={"a": [2], "b": 1})


def test_key_of_the_files_is_that_of_earlier_versions(tmp_path: Path) -> None:
    """A connection with another key than before would send every row once more."""
    loaded(tmp_path / "s", secret=secret_for(Settings(api_key="key")))
    assert plain(tmp_path / "s") == "crm_provider fingerprints 1 d6896c0dbe98a2ea\n"


def plain(path: Any) -> str:
    return (gzip.decompress(path.read_bytes()) if path.name.endswith(".gz") else path.read_bytes()).decode()


def test_contacts_are_sorted_so_that_equal_states_are_equal_files(tmp_path: Path) -> None:
    loaded(tmp_path / "one.gz", *(contact(n) for n in range(20)))
    loaded(tmp_path / "two.gz", *(contact(n) for n in reversed(range(20))))
    assert (tmp_path / "one.gz").read_bytes() == (tmp_path / "two.gz").read_bytes()
    lines = plain(tmp_path / "one.gz").splitlines()
    assert len(lines) == 21 and lines[1:] == sorted(lines[1:])
    assert (tmp_path / "one.gz").read_bytes()[3:8] == bytes(5), "no name and no time"


def test_file_does_not_contain_the_name_of_the_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gzip stores the name of the file that it writes to."""
    draft, table = tmp_path / "draft-of-the-moment", PrintTable()

    def writer(path: Path, mode: str) -> Any:
        file = draft.open(mode)
        assert file.name == str(draft)
        return file

    monkeypatch.setattr(fingerprint_table, "atomic_writer", writer)
    write_state(tmp_path / "s.gz", HEADER, table)
    table.close()
    packed = draft.read_bytes()
    assert packed[3:8] == bytes(5) and gzip.decompress(packed).decode() == f"{HEADER}\n"


def test_nothing_is_written_twice(tmp_path: Path) -> None:
    prints = Fingerprints(tmp_path / "s", SECRET)
    prints.forget(contact(1))
    assert names(tmp_path / "s") == []
    for _ in range(3):
        prints.remember(contact(1))
    for _ in range(3):
        prints.forget(contact(1))
    assert len(prints) == 0
    prints.close()
    assert len((tmp_path / "s.journal").read_text().splitlines()) == 3


def test_unfinished_runs_add_up(path: Any) -> None:
    for n in (1, 2, 3):
        prints = Fingerprints(path, SECRET)
        prints.remember(contact(n))
        prints.close()
    assert all(is_unchanged(path, contact(n)) for n in (1, 2, 3))


@pytest.mark.parametrize("left", [b"x\n", b"crm_provider fingerprints 1 of-another-key\n"])
def test_run_is_readable_beside_foreign_lines(left: bytes, tmp_path: Path) -> None:
    path = tmp_path / "s"
    (tmp_path / "s.journal").write_bytes(left)
    prints = Fingerprints(path, SECRET)
    prints.remember(contact(1))
    prints.close()
    assert is_unchanged(path, contact(1))


def test_state_is_read_again_after_closing(tmp_path: Path) -> None:
    first, second = (Fingerprints(tmp_path / "s", SECRET) for _ in range(2))
    first.remember(contact(1))
    first.close()
    second.forget(contact(1))
    second.finish()
    assert not first.unchanged(contact(1))
    first.close()


def test_file_of_another_format_is_not_reported_as_another_key(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for header, level in ((f"{TITLE} 0", "INFO"), (f"{TITLE}0 0", "WARNING")):
        caplog.clear()
        (tmp_path / "s").write_text(f"{header}\n")
        assert not is_unchanged(tmp_path / "s", contact(1))
        assert [record.levelname for record in caplog.records] == [level]


STEPS = st.lists(st.tuples(st.sampled_from(["send", "lost"]), st.integers(0, 2), st.integers(0, 2)), max_size=8)


@given(runs=st.lists(STEPS, min_size=1, max_size=4), data=st.data())
def test_kill_at_any_byte_never_leaves_a_wrong_unchanged(
    runs: list[list[tuple[str, int, int]]], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Contacts are forgotten, sent, and remembered. A run is killed before or after any step, and others follow."""
    path = tmp_path_factory.mktemp("s") / "s"
    possible: dict[int, set[int]] = {n: {-1} for n in range(3)}  # values that the CRM may have
    for steps in runs:
        finishes = data.draw(st.booleans(), label="finishes")  # first: hypothesis may end the example with an exception
        prints = Fingerprints(path, SECRET)
        for outcome, n, value in steps:
            prints.forget(contact(n, v=value))
            if outcome == "lost":
                possible[n] |= {value}
            else:
                possible[n] = {value}
                prints.remember(contact(n, v=value))
        if finishes:
            prints.finish()
        else:
            prints.close()
            tear_last_line(path.with_name("s.journal"), data, possible)
    final = Fingerprints(path, SECRET)
    for n, values in possible.items():
        for value in range(3):
            assert not final.unchanged(contact(n, v=value)) or values == {value}
    final.close()


def tear_last_line(journal: Path, data: st.DataObject, possible: dict[int, set[int]]) -> None:
    """A kill while the last line is written. A contact is forgotten before it is sent."""
    body = journal.read_bytes() if journal.exists() else b""
    if body.count(b"\n") < 2 or body.endswith(b"-\n"):
        return
    journal.write_bytes(body[: data.draw(st.integers(body[:-1].rindex(b"\n") + 1, len(body)), label="cut")])


def test_two_concurrent_runs_are_refused_on_a_disk(tmp_path: Path) -> None:
    first, second = (Fingerprints(tmp_path / "s", SECRET) for _ in range(2))
    first.load()
    first.load()
    with pytest.raises(InUse, match=r"another run is using the state file /\S+/s;"):
        second.load()
    first.close()
    second.load()
    second.finish()
    assert len(first) == 0
    first.close()


def test_kill_releases_the_lock(tmp_path: Path) -> None:
    code = (
        "import os, sys, pathlib; from crm_provider.load.state.fingerprints import Fingerprints\n"
        f"prints = Fingerprints(pathlib.Path({str(tmp_path / 's')!r}), b'x'); prints.load(); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    assert not is_unchanged(tmp_path / "s", contact(1), b"x")
