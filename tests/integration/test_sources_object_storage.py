"""Sources of a load as Airflow path objects, whose files have fewer methods than Python's."""

from __future__ import annotations

import gzip
import uuid
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from airflow.sdk import ObjectStoragePath
from airflow.sdk.io import attach
from fsspec.implementations.memory import MemoryFileSystem

from crm_provider.load.rows import NoSuchFile, SourceError
from crm_provider.load.sources.source import open_source
from crm_provider.tasks import templates
from crm_provider.tasks.templates import path_of, with_connection

ROWS = [{"email": "a@x.io"}, {"email": "b@x.io"}]


def parquet() -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(ROWS), sink)
    content: bytes = sink.getvalue().to_pybytes()
    return content


CONTENTS: dict[str, Callable[[], bytes]] = {
    "csv": lambda: b"email\na@x.io\nb@x.io\n",
    "csv.gz": lambda: gzip.compress(b"email\na@x.io\nb@x.io\n"),
    "jsonl": lambda: b'{"email": "a@x.io"}\n{"email": "b@x.io"}\n',
    "parquet": parquet,
}


@pytest.fixture
def bucket() -> Any:
    """A bucket of an object store with a connection."""
    attach("memory", conn_id="store", fs=MemoryFileSystem())
    return ObjectStoragePath(f"memory://store@bucket-{uuid.uuid4().hex}/in")


@pytest.mark.parametrize("suffix", CONTENTS)
def test_object_store_sources_by_name_and_pattern(bucket: Any, suffix: str) -> None:
    for day in ("monday", "tuesday"):
        with (bucket / day / f"leads.{suffix}").open("wb") as file:
            file.write(CONTENTS[suffix]())
    for source, times in ((bucket / "monday" / f"leads.{suffix}", 1), (bucket / "*" / f"leads.{suffix}", 2)):
        found = list(open_source(source).rows())
        assert [row.values for row in found] == ROWS * times
        assert [row.number for row in found] == list(range(1, 2 * times + 1))


def test_missing_object_raises_no_such_file(bucket: Any) -> None:
    with pytest.raises(NoSuchFile, match=f"there is no file {bucket / 'leads.csv'};"):
        list(open_source(bucket / "leads.csv").rows())


@pytest.mark.parametrize(
    ("url", "provider"),
    [
        ("s3://bucket/leads.csv", r"; install apache-airflow-providers-amazon\[s3fs\], and restart Airflow"),
        ("gs://bucket/*.csv", "; install apache-airflow-providers-google, and restart Airflow"),
        ("abfss://bucket/leads.csv", "; install apache-airflow-providers-microsoft-azure, and restart Airflow"),
        ("wasb://bucket/leads.csv", ""),
        ("https://example.com/leads.csv", ""),
    ],
)
def test_a_url_that_no_provider_opens_names_what_to_install(
    url: str, provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow.sdk.io.fs._register_filesystems", dict)  # no provider of an object store
    scheme = url.partition(":")[0]
    refused = rf"no installed provider opens {scheme}:// URLs{provider}$"
    for given in (url, [url], [{"email": "a@x.io"}, url]):
        with pytest.raises(SourceError, match=rf"^{refused}"):
            with_connection(given)
    with pytest.raises(SourceError, match=f"^rejects_path: {refused}"):
        path_of(url, "rejects_path")


def test_a_path_object_that_no_provider_opens_names_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airflow.sdk.io.fs._register_filesystems", dict)
    with pytest.raises(SourceError, match=r"no installed provider opens s3://"):
        with_connection(ObjectStoragePath("s3://key@bucket/leads.csv"))


def test_an_attached_file_system_needs_no_provider(bucket: Any) -> None:
    assert with_connection(str(bucket)).name == "in"
    assert with_connection([bucket]) == [bucket]
    assert [path.name for path in with_connection((str(bucket), bucket))] == ["in", "in"]


class Unchecked(type):
    """The type of a class for which no object may be checked."""

    def __instancecheck__(cls, instance: object) -> bool:
        raise AssertionError(f"{instance!r} was checked")


def test_rows_are_not_checked_for_being_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    """100,000 such checks take 3 s on Python 3.11."""
    monkeypatch.setattr(templates, "AnyPath", Unchecked("AnyPath", (), {}))
    rows = [{"email": "ada@example.com"}]
    assert with_connection(rows) == rows
    assert with_connection(str([{"url": "s3://key@bucket"}])) == str([{"url": "s3://key@bucket"}])
