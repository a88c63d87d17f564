"""Several rejects files as one source: each row keeps its number, location, and reason."""

from __future__ import annotations

from pathlib import Path

import pytest
from upath import UPath

from crm_provider.load.rejected_files import RejectedFiles, find_rejects, mapped_instead, read_rejects_of
from crm_provider.load.rejects.file import NoRejects, RejectedRows, RejectsFile
from crm_provider.load.rejects.formats import Reject
from crm_provider.load.rows import SourceError


def written(path: Path, *numbers: int, retryable: bool = True) -> Path:
    file = RejectsFile(path, columns=("email",))
    file.start()
    for number in numbers:
        file.write(Reject(number, {"email": f"p{number}@x.org"}, "INVALID_INPUT", "no", retryable=retryable))
    file.finish(len(numbers))
    return path


def test_rows_of_all_files_come_in_order_with_their_locations(tmp_path: Path) -> None:
    paths = [written(tmp_path / "r.0.jsonl", 3, 5), written(tmp_path / "r.1.jsonl", 3)]
    source = read_rejects_of([paths[0], tmp_path / "none.jsonl", paths[1]])
    assert isinstance(source, RejectedFiles)
    for _ in range(2):  # also on a second read
        rows = list(source.rows())
        assert [(row.number, row.values["email"]) for row in rows] == [
            (1, "p3@x.org"), (2, "p5@x.org"), (3, "p3@x.org"),
        ]  # fmt: skip
    assert [source.original(number) for number in (1, 2, 3)] == [3, 5, 3]
    assert [str(paths[0]) in source.place(number) for number in (1, 2, 3)] == [True, True, False]
    assert str(paths[1]) in source.place(3)
    assert not any(source.is_malformed(number) for number in (1, 2, 3))
    assert (source.name, source.header, source.left_out) == ("2 rejects files", None, 0)


def test_file_without_rows_to_send_shifts_no_number(tmp_path: Path) -> None:
    paths = [
        written(tmp_path / "a.csv", 1),
        written(tmp_path / "b.csv", 2, 3, retryable=False),
        written(tmp_path / "c.csv", 4),
    ]
    source = read_rejects_of(list(paths), retryable_only=True)
    assert [row.values["email"] for row in source.rows()] == ["p1@x.org", "p4@x.org"]
    assert [source.original(number) for number in (1, 2)] == [1, 4]
    assert source.left_out == 2
    assert source.header == ("email",)


def test_single_file_is_read_as_before(tmp_path: Path) -> None:
    assert isinstance(read_rejects_of([written(tmp_path / "r.jsonl", 1)]), RejectedRows)


@pytest.mark.parametrize("names", [[], ["a.jsonl"], ["a.jsonl", "b.jsonl"]])
def test_nothing_to_send_without_a_file(tmp_path: Path, names: list[str]) -> None:
    with pytest.raises(NoRejects):
        read_rejects_of([tmp_path / name for name in names])


def test_pattern_finds_each_file_of_a_mapped_load_once(tmp_path: Path) -> None:
    names = ("r.0.jsonl", "r.1.jsonl", "r.10.jsonl", "r.1.jsonl.report.md", "other.jsonl")
    for name in names:
        (tmp_path / name).touch()
    found = find_rejects([tmp_path / "r.*.jsonl", tmp_path / "r.1.jsonl", tmp_path / "no-*.jsonl"])
    assert [path.name for path in found] == ["r.0.jsonl", "r.1.jsonl", "r.10.jsonl"]
    assert find_rejects([tmp_path / "no-*" / "r.jsonl"]) == []
    assert len(find_rejects([UPath("memory://no-folder/r.jsonl")])) == 1
    for name in ("r.jsonl", "r.*.jsonl"):
        with pytest.raises(SourceError, match=f"this worker has no folder {tmp_path}/no, which a load creates"):
            find_rejects([tmp_path / "no" / name])


def test_the_pattern_for_files_of_a_mapped_load_is_suggested(tmp_path: Path) -> None:
    for name in ("r[1].0.jsonl", "r[1].10.jsonl", "r[1].x.jsonl", "r[1].1.jsonl.report.md", "r1.2.jsonl"):
        (tmp_path / name).touch()
    missing = tmp_path / "r[1].jsonl"
    assert mapped_instead([tmp_path / "other.jsonl", missing]) == (
        f"a mapped load has written 2 files of its own; give the pattern {tmp_path / 'r[1].*.jsonl'}"
    )


def test_no_pattern_is_suggested_for_files_that_are_there_or_are_not_of_a_mapped_load(tmp_path: Path) -> None:
    for name in ("there.jsonl", "there.0.jsonl", "named.x.jsonl", "p.0.jsonl"):
        (tmp_path / name).touch()
    for name in ("there.jsonl", "named.jsonl", "p.*.jsonl", "no-folder/r.jsonl"):
        assert mapped_instead([tmp_path / name]) == ""
