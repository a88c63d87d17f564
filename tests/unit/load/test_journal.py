"""Journals: a kill at any point loses no whole line and duplicates none."""

from __future__ import annotations

import csv
import io
import uuid
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from upath import UPath

from crm_provider.files import journal
from crm_provider.files.journal import Journal
from crm_provider.files.paths import CannotRead
from crm_provider.files.row_lines import RowNumbers

TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\n"), max_size=20)
PLACES = ["disk", "store"]


@pytest.fixture(params=PLACES)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> object:
    return new_path(request.param, tmp_path)


def new_path(place: str, tmp_path: Path) -> object:
    name = uuid.uuid4().hex
    return tmp_path / name / "j.txt" if place == "disk" else UPath(f"memory://bucket/{name}/j.txt")


def written(path: object, *lines: str, finish: bool = True) -> Journal:
    made = Journal(path)
    for line in lines:
        made.append(line)
    made.finish() if finish else made.sync()
    return made


def names(path: object) -> list[str]:
    return sorted(p.name for p in path.parent.iterdir()) if path.parent.exists() else []


def test_lines_come_back_in_order(path: object) -> None:
    made = written(path, "one", "zwei ü", "")
    assert list(made.lines()) == ["one", "zwei ü", ""]
    assert path.read_bytes() == "one\nzwei ü\n\n".encode()
    assert names(path) == ["j.txt"]


def test_no_file_is_created_without_lines(path: object) -> None:
    made = written(path)
    assert list(made.lines()) == []
    assert made.keep(lambda line: True) == 0
    assert names(path) == []


def test_later_try_appends(path: object) -> None:
    written(path, "one", finish=False)
    written(path, "two", finish=False)
    written(path, "three")
    written(path, "four")
    assert list(Journal(path).lines()) == ["one", "two", "three", "four"]
    assert names(path) == ["j.txt"]


def test_keep_drops_other_lines(path: object) -> None:
    made = written(path, *"abcdef", finish=False)
    made.append("g")
    assert made.keep(lambda line: line in "aceg") == 4
    made.append("h")
    assert list(made.lines()) == list("acegh")
    made.finish()
    assert list(Journal(path).lines()) == list("acegh")
    assert Journal(path).keep(lambda line: False) == 0
    assert names(path) == []


def test_clear_removes_all_lines(path: object) -> None:
    made = written(path, "a", finish=False)
    made.append("b")
    made.clear()
    assert names(path) == [] and list(made.lines()) == []
    made.append("c")
    made.finish()
    assert list(made.lines()) == ["c"]


def test_object_is_joined_from_parts_only_at_the_end() -> None:
    path = new_path("store", Path())
    made = Journal(path)
    for line in "ab":
        made.append(line)
        made.sync()
    made.sync()
    assert names(path) == ["j.txt.part-000001", "j.txt.part-000002"]
    made.finish()
    assert names(path) == ["j.txt"]


@pytest.mark.parametrize("killed_before_part", [1, 2, 3])
def test_kill_while_parts_are_dropped_duplicates_nothing(
    killed_before_part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = new_path("store", Path())
    made = Journal(path)
    for line in "abc":
        made.append(line)
        made.sync()
    left = iter(range(killed_before_part - 1))

    def dying(path: object) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        path.unlink()

    with monkeypatch.context() as patch:
        patch.setattr(journal, "remove", dying)
        with pytest.raises(KeyboardInterrupt):
            made.finish()
    assert list(Journal(path).lines()) == ["a", "b", "c"]
    written(path, "d")
    assert list(Journal(path).lines()) == ["a", "b", "c", "d"]
    assert names(path) == ["j.txt"]


def test_leftover_parts_are_dropped_by_finish() -> None:
    path = new_path("store", Path())
    written(path, "a")
    (path.parent / "j.txt.part-000001").write_bytes(b"a\n")
    written(path)
    assert names(path) == ["j.txt"]


def test_long_journal_is_flushed_to_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "MOST_WAITING", 10)
    path = new_path("store", Path())
    made = Journal(path)
    for n in range(20):
        made.append(f"line {n:02}")
    assert len(names(path)) == 10
    made.finish()
    assert list(made.lines()) == [f"line {n:02}" for n in range(20)]


@given(lines=st.lists(TEXTS, min_size=1, max_size=8), more=st.lists(TEXTS, max_size=3), data=st.data())
def test_kill_at_any_byte_keeps_whole_lines(
    lines: list[str], more: list[str], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("j") / "j.txt"
    written(path, *lines)
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut])
    survived = lines[: whole[:cut].count(b"\n")]
    assert list(Journal(path).lines()) == survived
    written(path, *more)
    assert list(Journal(path).lines()) == survived + more


@pytest.mark.parametrize("text", [b'"' + b"x" * 60 + b"\n" + b"y" * 60, b'"\n' * 2 + b'"' + b"\n" * 120])
def test_unclosed_quote_does_not_fill_the_memory(text: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "LONGEST_LINE", 100)
    path = tmp_path / "rejects.csv"
    path.write_bytes(text + b"\n" * 1000)
    with pytest.raises(CannotRead, match=r"rejects\.csv cannot be read: one of its lines has over 67,108,864 bytes"):
        list(Journal(path, quoted=True).lines())


CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6)
"""Without NUL, which the ``csv`` module of Python 3.10 cannot write."""


@given(rows=st.lists(st.lists(CELLS, min_size=1, max_size=3), min_size=1, max_size=6), data=st.data())
def test_quoted_lines_survive_a_kill_at_any_byte(
    rows: list[list[str]], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    lines = [csv_line(row) for row in rows]
    path = tmp_path_factory.mktemp("j") / "j.csv"
    whole = "".join(f"{line}\n" for line in lines).encode()
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut])
    ends = [len("".join(f"{line}\n" for line in lines[: n + 1]).encode()) for n in range(len(lines))]
    survived = lines[: sum(end <= cut for end in ends)]
    made = Journal(path, quoted=True)
    assert list(made.lines()) == survived
    made.append("after")
    made.finish()
    assert list(Journal(path, quoted=True).lines()) == [*survived, "after"]


def csv_line(row: list[str]) -> str:
    out = io.StringIO(newline="")
    csv.writer(out, lineterminator="\r\n").writerow(row)
    return out.getvalue()[:-2]


def test_row_numbers_take_one_bit_each_and_a_huge_one_takes_one_chunk() -> None:
    found = RowNumbers()
    assert [found.add(number) for number in (1, 8, 9, 1, 65_535, 65_536, 2**53, 65_536, 2**53)] == [
        True, True, True, False, True, True, True, False, False,
    ]  # fmt: skip
    assert len(found) == 6
    assert {piece: len(bits) for piece, bits in found._pieces.items()} == {0: 8192, 1: 8192, 2**37: 8192}
