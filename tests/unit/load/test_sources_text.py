"""Text files: encodings, byte order marks, gzip, and files that are not text."""

from __future__ import annotations

import codecs
import gzip
from pathlib import Path
from typing import Any

import pytest
from upath import UPath

from crm_provider.load.rows import SourceError
from crm_provider.load.sources import text_files
from crm_provider.load.sources.source import open_source

CSV = "email,name\na@x.io,José Ñ €\n"
JSONL = '{"email": "a@x.io", "name": "José Ñ €"}\n'
ROW = {"email": "a@x.io", "name": "José Ñ €"}

ENCODINGS: dict[str, tuple[bytes, str, dict[str, str]]] = {
    "utf-8": (b"", "utf-8", {}),
    "utf-8 with a mark": (codecs.BOM_UTF8, "utf-8", {}),
    "utf-8 with a mark and another option": (codecs.BOM_UTF8, "utf-8", {"encoding": "cp1252"}),
    "utf-16 with a mark": (codecs.BOM_UTF16_LE, "utf-16-le", {}),
    "utf-16 big endian with a mark": (codecs.BOM_UTF16_BE, "utf-16-be", {}),
    "utf-32 with a mark": (codecs.BOM_UTF32_LE, "utf-32-le", {}),
    "utf-16 without a mark": (b"", "utf-16-be", {"encoding": "utf-16-be"}),
    "cp1252": (b"", "cp1252", {"encoding": "cp1252"}),
}


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
@pytest.mark.parametrize("case", ENCODINGS)
def test_encodings(tmp_path: Path, case: str, suffix: str, packed: bool) -> None:
    mark, encoding, options = ENCODINGS[case]
    content = mark + (CSV if suffix == "csv" else JSONL).encode(encoding)
    path = tmp_path / (f"leads.{suffix}.gz" if packed else f"leads.{suffix}")
    path.write_bytes(gzip.compress(content) if packed else content)
    assert [row.values for row in open_source(path, options=options).rows()] == [ROW]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (CSV.encode(), "is not a valid gzip file; fetch or write it again"),
        (gzip.compress(CSV.encode())[:-9], "ends before its gzip data do"),
        (gzip.compress(CSV.encode())[:-8] + bytes(8), "is not a valid gzip file"),
    ],
    ids=["no gzip", "cut off", "wrong sum"],
)
def test_damaged_gzip_file(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "leads.csv.gz").write_bytes(content)
    with pytest.raises(SourceError, match=says):
        list(open_source(tmp_path / "leads.csv.gz").rows())


def test_file_of_another_file_system(tmp_path: Path) -> None:
    for name, content in (("a.csv", CSV.encode()), ("a.csv.gz", gzip.compress(CSV.encode()))):
        path = UPath(f"memory://texts/{tmp_path.name}/{name}")
        path.write_bytes(content)
        assert [row.values for row in open_source(path).rows()] == [ROW]


class Meagre:
    """A file with only ``read``, which returns less than requested."""

    def __init__(self, content: bytes) -> None:
        self.rest, self.closed = content, False

    def read(self, size: int) -> bytes:
        part, self.rest = self.rest[: min(size, 3)], self.rest[min(size, 3) :]
        return part

    def __enter__(self) -> Meagre:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True


@pytest.mark.parametrize("content", [CSV.encode(), gzip.compress(CSV.encode())], ids=["plain", "gzip"])
def test_file_object_needs_only_read(content: bytes) -> None:
    file = Meagre(content)

    class MeagrePath:
        name = "leads.csv"

        def open(self, mode: str) -> Meagre:
            return file

    with text_files.open_lines(MeagrePath(), encoding="utf-8", newline="") as lines:  # type: ignore[arg-type]
        assert list(lines) == CSV.splitlines(keepends=True)
    assert file.closed


def refused(path: Path, **options: Any) -> str:
    with pytest.raises(SourceError) as caught:
        list(open_source(path, options=options).rows())
    assert "secret" not in str(caught.value)
    return str(caught.value)


def test_utf8_file_is_not_garbled_by_another_encoding(tmp_path: Path) -> None:
    garbled, path = "secret@x.io,José\n".encode(), tmp_path / "leads.csv"
    path.write_bytes(b"email,name\na@x.io,Ann\n" + garbled * 2)
    says = "is UTF-8, and would be garbled as latin-1; remove encoding from source_options"
    assert says in refused(path, encoding="latin-1")
    path.write_bytes(b"email,name\n" + garbled + "b@x.io,Zoë\n".encode("latin-1") + garbled)
    names = [row.values["name"] for row in open_source(path, options={"encoding": "latin-1"}).rows()]
    assert names == ["JosÃ©", "Zoë", "JosÃ©"], "the file is not UTF-8"
    for encoding in ("gbk", "iso2022_jp", "hz"):  # in which these bytes are UTF-8 by chance, or ASCII
        path.write_bytes("email,name\na@x.io,一\n".encode(encoding))
        assert path.read_bytes().decode()
        assert [row.values["name"] for row in open_source(path, options={"encoding": encoding}).rows()] == ["一"]


@pytest.mark.parametrize("rows_before", [1, 5000], ids=["near", "far"])
@pytest.mark.parametrize(
    ("encoding", "bad", "message"),
    [
        (
            "utf-8",
            "secret Jos\xe9\n".encode("latin-1"),
            "is not utf-8; save it as UTF-8 or give source_options={'encoding': 'cp1252'} (Windows, Excel) or",
        ),
        ("utf-8", b"secret" + bytes(64) + b"\n", "holds a NUL character"),
        ("ascii", "secret é\n".encode(), "is not ascii; save it as UTF-8 or give source_options={'encoding': 'utf-8'}"),
        ("shift_jis", b"secret \x81\n", "is not shift_jis"),
        ("utf-8", b"secret \xe2\x82", "is not utf-8"),
    ],
    ids=["latin-1", "NUL", "ascii", "shift_jis", "cut off"],
)
def test_non_text_is_refused_with_its_line(
    tmp_path: Path, encoding: str, bad: bytes, message: str, rows_before: int
) -> None:
    for suffix, head, good in (("csv", b"email\n", b"a@x.io\n"), ("jsonl", b"", b'{"email": "a@x.io"}\n')):
        path = tmp_path / f"leads.{suffix}"
        path.write_bytes(head + good * rows_before + bad)
        line = rows_before + 1 + (suffix == "csv")
        assert refused(path, encoding=encoding).startswith(f"{path}, line {line} {message}")


def test_utf_16_that_ends_within_a_character(tmp_path: Path) -> None:
    path = tmp_path / "leads.csv"
    path.write_bytes(codecs.BOM_UTF16_LE + "email\na@x.io\n".encode("utf-16-le") + b"s")
    assert refused(path).startswith(f"{path}, line 3 is not utf-16; save it as UTF-8 or give source_options={{'encod")


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_without_a_mark_is_recognised_by_its_nuls(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "leads.csv"
    path.write_bytes("email\n".encode(encoding))
    assert (
        "line 1 holds a NUL character: it is damaged, not a text file, or UTF-16; save it as UTF-8 "
        f"or give source_options={{'encoding': '{encoding}'}}" in refused(path)
    )


@pytest.mark.parametrize("encoding", ["utf-16", "undefined"])
def test_encoding_that_rejects_the_whole_file(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "leads.csv"
    path.write_bytes(b"email\na@x.io\n")
    assert (
        "line 1 cannot be decoded; save it as UTF-8 or give source_options={'encoding': 'utf-16-le'} or 'utf-16-be' "
        "(for UTF-16 without a byte order mark)" in refused(path, encoding=encoding)
    )


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_marks_of_files_that_were_appended_are_no_part_of_a_value(tmp_path: Path, suffix: str) -> None:
    path, mark = tmp_path / f"leads.{suffix}", codecs.BOM_UTF8.decode()
    head, row = (
        ("name,email\n", f'"Ann\n{mark}B.",a@x.io\n') if suffix == "csv" else ("", '{"name": "Ann\\n\ufeffB."}\n')
    )
    path.write_text(f"{mark}{mark}{head}{row}{mark}{row}{mark}", encoding="utf-8")
    assert [row.values["name"] for row in open_source(path).rows()] == [f"Ann\n{mark}B."] * 2


def test_line_without_an_end_is_not_read_whole(tmp_path: Path) -> None:
    for suffix in ("csv", "jsonl"):
        path = tmp_path / f"leads.{suffix}"
        path.write_bytes(b"email\n" * (suffix == "csv") + b"secret" * (text_files.LONGEST_LINE // 6 + 2))
        assert f"is longer than {text_files.LONGEST_LINE} characters; write one record per line" in refused(path)


# -- gzip


def test_gzip_with_several_members_and_without_the_suffix(tmp_path: Path) -> None:
    path = tmp_path / "leads.csv"
    path.write_bytes(gzip.compress(b"email\na@x.io\n") + gzip.compress(b"b@x.io\n"))
    assert [row.values["email"] for row in open_source(path).rows()] == ["a@x.io", "b@x.io"]
