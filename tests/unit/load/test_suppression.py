"""The suppression list: every person on it is found, and no entry is ignored."""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
import re
import sqlite3
import unicodedata
import uuid
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from upath import UPath

from crm_provider.files.temp_database import TempDatabase
from crm_provider.load.rows import NoSuchFile, SourceError
from crm_provider.load.suppression import Suppression
from crm_provider.values.addresses import NotOneAddress, one_address


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


ANN, BOB = "Ann@Example.com", sha256("bob@example.com")


def check(found: Suppression) -> None:
    assert len(found) == 2
    assert all(email in found for email in ("ann@example.com", "ANN@EXAMPLE.COM", " Ann@example.com "))
    assert all(email in found for email in ("bob@example.com", "Bob@Example.com"))
    assert "eve@example.com" not in found and BOB not in found and None not in found
    found.close()


@pytest.mark.parametrize(
    "source",
    [
        [ANN, BOB],
        [ANN, BOB.upper(), "ann@example.com", f" {BOB} "],
        [{"email": ANN}, {"email": BOB}],
        [{"adresse": ANN}, {"adresse": BOB}],
    ],
    ids=["entries", "repeated", "rows", "rows with one column"],
)
def test_lists(source: Any) -> None:
    check(Suppression.read(source))


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("s.txt", f"{ANN}\n\n  {BOB}\r\n"),
        ("s.txt", f"\ufeff{ANN}\n{BOB}"),
        ("s.csv", f"email\n{ANN}\n{BOB}\n"),
        ("s.csv", f"Adresse\n{ANN}\n{BOB}\n"),
        ("s.csv", f"name;EMAIL;since\nx;{ANN};1\ny;{BOB};2\n"),
        ("s.jsonl", f'{{"email": "{ANN}", "x": 1}}\n{{"email": "{BOB}"}}\n'),
    ],
)
@pytest.mark.parametrize("place", ["disk", "disk as text", "store", "pattern", "packed", "list of paths"])
def test_files(name: str, body: str, place: str, tmp_path: Path) -> None:
    folder = UPath(f"memory://s/{uuid.uuid4().hex}") if place == "store" else tmp_path
    path = folder / (f"{name}.gz" if place == "packed" else name)
    path.write_bytes(gzip.compress(body.encode()) if place == "packed" else body.encode())
    source: Any = {"disk as text": str(path), "pattern": f"{tmp_path}/s*", "list of paths": [path]}.get(place, path)
    check(Suppression.read(source))


BAD = "ann at secret.example"


@pytest.mark.parametrize(
    ("name", "body", "said"),
    [
        ("s.txt", f"{ANN}\n\n{BAD}\n", r"s\.txt, line 3.* of the suppression list is not a valid email address"),
        ("s.txt", f"{ANN}\n{BOB[:40]}\n", r"line 2 .* one SHA-256 hash \(64 hex digits\)"),
        ("s.txt", f"# comment\n{ANN}\n", "line 1 "),
        ("s.csv", f"email\n{ANN}\n{BAD}\n", r"/s\.csv, line 3.* of the suppression list is not a valid"),
        ("s.csv", f"email,name\n{ANN},x\n,y\n", r"/s\.csv, line 3.* of the suppression list is empty"),
        ("s.csv", f"email,name\n{ANN},x\n{BAD}\n", "line 3"),
        ("s.csv", f"{ANN}\n{BOB}\n", "begins with an entry"),
        ("s.csv", f"{BOB}\n{ANN}\n", "begins with an entry"),
        ("s.csv", f"name,phone\n{ANN},x\n", "no column is called 'email'"),
        ("s.jsonl", f'{{"email": "{ANN}"}}\n{{"mail": "{BAD}", "x": 1}}\n', "line 2 .*no column is called 'email'"),
        ("s.jsonl", f'{{"email": "{ANN}"}}\n"{BAD}"\n', "line 2"),
        (
            "s.jsonl",
            f'{{"email": "{ANN}"}}\n{{"email": 7}}\n',
            r"/s\.jsonl, line 2.* of the suppression list is not text",
        ),
        ("s.jsonl", f'{{"email": "{ANN}", "Email": "{ANN}"}}\n', "2 columns are called 'email'"),
    ],
)
def test_truncated_list_is_refused(name: str, body: str, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(body)
    with pytest.raises(SourceError, match=said) as caught:
        Suppression.read(tmp_path / name)
    for value in (BAD, ANN, BOB[:40]):
        assert value not in str(caught.value)


@pytest.mark.parametrize(
    "entry", [BAD, "", None, 7, "a@b.com, c@d.com", "a@b.com # left", f"{BOB}, {BOB}", f"{BOB} a@b.com"]
)
def test_entries_of_a_list(entry: Any) -> None:
    with pytest.raises(SourceError):
        Suppression.read([ANN, entry])


@pytest.mark.parametrize("name", ["missing.txt", "missing.csv", "missing*.txt", "s3://bucket/x.txt"])
def test_missing_list(name: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError):
        Suppression.read(name if "//" in name else str(tmp_path / name))


@pytest.mark.parametrize("name", ["ann@2024.txt", "ann@2024.CSV.gz"])
def test_the_name_of_a_file_may_look_like_an_address(name: str) -> None:
    with pytest.raises(NoSuchFile, match=f"there is no file {Path.cwd()}/{name};"):
        Suppression.read(name)


@pytest.mark.parametrize("name", ["s.txt", "s.csv"])
def test_missing_object(name: str) -> None:
    with pytest.raises(NoSuchFile, match=rf"^suppression list: there is no file memory://s/.*{name}; correct the path"):
        Suppression.read(UPath(f"memory://s/{uuid.uuid4().hex}/{name}"))


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ([ANN, None], "entry 2 of the suppression list is empty. Each entry must be"),
        ([None], "entry 1 of the suppression list is empty. "),
        (["per%cent@ex.co", "*@ex.co"], "entry 2 of the suppression list is a pattern of addresses. "),
        (["per%cent@ex.co", "ann%@ex.co"], "entry 2 of the suppression list is a pattern of addresses. "),
        ([ANN, {"email": ANN}], "entry 2 of the suppression list is not text. "),
        ([7.5, b"x"], "entry 1 of the suppression list is not text. "),
        ([{"email": ANN}, {"email": 7}], "row 2 of the list of rows of the suppression list is not text. "),
        ([[ANN]], "suppression list: the rows are lists of values without the names of their columns"),
        ("https://x", "suppression list: a https:// URL must be given as a path object"),
    ],
)
def test_list_with_other_content_is_refused(entries: Any, said: str) -> None:
    with pytest.raises(SourceError, match=f"^{re.escape(said)}"):
        Suppression.read(entries)


@pytest.mark.parametrize(
    ("name", "content"), [("s.txt", "Zo\u00eb@x.org".encode("latin-1")), ("s.xlsx", b""), ("s.csv", b"a,b\n1,2\n")]
)
def test_file_errors_name_the_list(name: str, content: bytes, tmp_path: Path, databases: list[TempDatabase]) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match="suppression list"):
        Suppression.read(str(tmp_path / name))
    with pytest.raises(sqlite3.ProgrammingError, match="closed database"):
        databases[0].execute("SELECT 1")


@pytest.mark.parametrize("name", ["s.txt", "s.csv"])
def test_list_in_another_encoding_has_no_options(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes("email\nZo\u00eb@x.org".encode("latin-1") if name == "s.csv" else "\nZo\u00eb@x".encode("latin-1"))
    with pytest.raises(SourceError) as caught:
        Suppression.read(path)
    assert str(caught.value) == f"suppression list: {path}, line 2 is not utf-8; save it as UTF-8"


def test_empty_list_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert len(Suppression.read([])) == 0
    assert "no contact is left out" in caplog.text


# -- spellings -------------------------------------------------------------------------------------------------

DATA = Path(__file__).parents[2] / "data"


@pytest.mark.parametrize(
    ("name", "people"),
    [
        (
            "suppression.txt",
            ["no1@ex.co", "NO2@ex.co", "no3@ex.co", "no4@ex.co", "no5@ex.co", "jos\u00e9@ex.co", "JOSE\u0301@EX.CO"],
        ),
        ("suppression_spaces.csv", ["no6@ex.co"]),
    ],
)  # fmt: skip
def test_lists_as_people_write_them(name: str, people: list[str]) -> None:
    found = Suppression.read(DATA / name)
    assert [person for person in people if person not in found] == []
    assert "no@ex.co" not in found
    found.close()


ODD = [
    "a@ex.co # left in May", "a@ex.co (Ann)", "a@ex.co b@ex.co", "a@ex.co;b@ex.co", '"a@ex.co","b@ex.co"', "a@ex", "a",
    "a@@ex.co", f"{BOB} # Bob", BOB[:-1], f"{BOB}0", "*@ex.co", " <ann*@ex.co>", "%@ex.co",
]  # fmt: skip


@pytest.mark.parametrize("odd", ODD)
def test_entry_that_is_not_exactly_one_address_ends_the_load(odd: str, tmp_path: Path) -> None:
    quoted = odd.replace('"', '""')
    files = {
        "list.txt": (f"{ANN}\n{odd}\n", "line 2"),
        "list.csv": (f'name,email\nx,{ANN}\n"two\nlines","{quoted}"\n', "lines? 3"),
        "list.tsv": (f'email\tname\n{ANN}\tx\n"{quoted}"\ty\n', "line 3"),
        "list.jsonl": (f'{{"email": "{ANN}"}}\n\n{json.dumps({"email": odd})}\n', "line 3"),
    }
    for name, (body, line) in files.items():
        (tmp_path / name).write_text(body)
        with pytest.raises(SourceError, match=rf"/{name}, {line}.* of the suppression list ") as caught:
            Suppression.read(tmp_path / name)
        assert "ex.co" not in str(caught.value) and BOB[:8] not in str(caught.value)


@pytest.mark.parametrize("hashed", ["j\u00f6@b\u00fccher.de", "jo\u0308@bu\u0308cher.de", "j\u00f6@xn--bcher-kva.de"])
@pytest.mark.parametrize(
    "person",
    ["J\u00f6@B\u00fccher.de", "JO\u0308@BU\u0308CHER.DE", "j\u00f6@XN--bcher-kva.de", "<j\u00f6@b\u00fccher.de>;"],
)
def test_hash_of_any_form_matches_any_spelling(hashed: str, person: str) -> None:
    found = Suppression.read([f' "{sha256(hashed).upper()}"; '])
    assert person in found
    assert "jo@b\u00fccher.de" not in found
    found.close()


def test_a_name_before_an_address_may_have_half_of_a_character() -> None:
    found = Suppression.read([ANN])
    assert f"\ud83d <{ANN}>" in found
    found.close()


EMAILS = st.builds(
    "{}@{}.{}".format,
    st.text("aZ\u00e9\u0301\u00df\u03a3\u03c2\u00f6'.+-_x0", min_size=1, max_size=8),
    st.from_regex(r"\A[a-z\u00e9\u00fc]{1,5}\Z"),
    st.sampled_from(["co", "DE", "test", "xn--p1ai", "\u0440\u0444"]),
)  # fmt: skip


@given(EMAILS, st.sampled_from(["NFC", "NFD"]), st.sampled_from(["{}", "X <{}>", "'{}'", "{};", "\u200e{}\u00a0"]))
def test_everybody_on_the_list_is_found(email: str, form: Any, around: str) -> None:
    email = unicodedata.normalize(form, email)
    try:
        written = one_address(email)
    except NotOneAddress:
        with pytest.raises(SourceError):
            Suppression.read([email])
        return
    lower = unicodedata.normalize(form, written).lower()
    for entry in (email, lower, around.format(email), sha256(lower), sha256(written.lower())):
        found = Suppression.read([entry])
        assert email in found and written in found and around.format(email) in found
        assert f"x{written}" not in found
        found.close()


@pytest.mark.parametrize("text", ["w@ex.co", "w@ex.co, v@ex.co", "['w@ex.co', 'v@ex.co']"])
def test_addresses_instead_of_a_path_are_refused_without_showing_them(text: str) -> None:
    with pytest.raises(SourceError, match="give a list, or the path of a file") as refused:
        Suppression.read(text)
    assert "ex.co" not in str(refused.value)
