"""Path objects of all kinds, and files written completely or not at all."""

from __future__ import annotations

import os
import stat
import uuid
from pathlib import Path
from typing import Literal

import pytest
from upath import UPath

from crm_provider.files import paths
from crm_provider.files.paths import (
    CannotWrite,
    as_path,
    atomic_writer,
    indexed,
    is_local,
    is_on_own_disk,
    private_folder,
    sibling,
)


@pytest.fixture
def bucket() -> UPath:
    """An empty folder of an object store."""
    return UPath(f"memory://bucket-{uuid.uuid4().hex}/folder")


def fail_half_way(path: object) -> None:
    with atomic_writer(path) as file:
        file.write("half")
        raise RuntimeError


@pytest.mark.parametrize(
    "given", ["/tmp/a.csv", "file:///tmp/a.csv", Path("/tmp/a.csv"), UPath("/tmp/a.csv"), UPath("file:///tmp/a.csv")]
)
def test_local_paths_become_pathlib_paths(given: object) -> None:
    path = as_path(given)
    assert type(path) is type(Path())
    assert path == Path("/tmp/a.csv")
    assert is_local(path)


def test_store_paths_are_unchanged(bucket: UPath) -> None:
    assert as_path(bucket) is bucket
    assert not is_local(as_path(bucket))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("s3://bucket/x", "ObjectStoragePath"),
        ("", "empty"),
        (" ", "empty"),
        (7, "of type int"),
        ("['/data/a.csv', None]", "render_template_as_native_obj"),
        ("email\nann@example.com\n", "several lines"),
    ],
)
def test_invalid_path_is_refused(given: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        as_path(given)


def test_path_on_the_disk_of_a_container(bucket: UPath, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "is_mount", lambda path: str(path) in ("/", "/mnt/volume"))
    assert is_on_own_disk(Path("/var/new/rejects.jsonl"))
    assert is_on_own_disk(Path("/mnt/volume-2/rejects.jsonl"))
    assert not is_on_own_disk(Path("/mnt/volume/new/rejects.jsonl"))
    assert not is_on_own_disk(Path("/mnt/other/../volume/rejects.jsonl"))
    assert not is_on_own_disk(bucket)


MOUNTINFO = r"""
1000 900 0:57 / / rw,relatime master:312 - overlay overlay rw,lowerdir=/var/lib/containerd/1/fs
1001 1000 254:1 /var/lib/kubelet/pods/4b1c/volumes/kubernetes.io~empty-dir/logs /opt/logs rw - ext4 /dev/vda1 rw
1002 1000 254:1 /var/lib/kubelet/pods/4b1/volumes/kubernetes.io~empty-dir/x/y /mnt/two\040words rw - ext4 /dev/vda1 rw
1003 1000 0:61 / /mnt/memory rw,relatime - tmpfs tmpfs rw,size=1024k
1004 1000 254:16 / /mnt/claim rw,relatime shared:7 - ext4 /dev/vdb rw
1005 1000 0:70 /exports/crm /mnt/nfs rw,relatime - nfs4 10.0.0.7:/exports/crm rw
1006 1001 254:16 /logs /mnt/hidden rw - ext4 /dev/vdb rw
1007 1001 254:1 /var/lib/kubelet/pods/4b1c/volumes/kubernetes.io~empty-dir/y /mnt/hidden rw - ext4 /dev/vda1 rw
1008 1000 254:1 /srv/crm /mnt/host rw,relatime - ext4 /dev/vda1 rw
""".lstrip()
"""The mount table of a container in a pod: the fourth field is the mounted root, the fifth the mount point."""


@pytest.mark.parametrize(
    ("folder", "is_deleted"),
    [
        ("/opt/logs", True),
        ("/mnt/two words", True),
        ("/mnt/memory", True),
        ("/mnt/hidden", True),
        ("/mnt/claim", False),
        ("/mnt/nfs", False),
        ("/mnt/host", False),
    ],
)
def test_empty_dir_is_deleted_with_its_pod(
    folder: str, is_deleted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mountinfo").write_text(MOUNTINFO)
    monkeypatch.setattr(paths, "MOUNTS", tmp_path / "mountinfo")
    monkeypatch.setattr(Path, "is_mount", lambda path: str(path) in ("/", folder))
    assert is_on_own_disk(Path(folder, "crm/rejects.jsonl")) is is_deleted
    monkeypatch.setattr(paths, "MOUNTS", tmp_path / "no such file")
    assert not is_on_own_disk(Path(folder, "crm/rejects.jsonl"))


def test_link_to_a_volume_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    (tmp_path / "link").symlink_to(volume)
    monkeypatch.setattr(Path, "is_mount", lambda path: path in (Path("/"), volume))
    assert not is_on_own_disk(tmp_path / "link" / "file")
    assert is_on_own_disk(tmp_path / "file")


def test_local_files_and_new_folders_are_private(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "x.txt"
    with atomic_writer(path) as file:
        file.write("one\r\ntwo\n")
        assert not path.exists()
    assert path.read_bytes() == b"one\r\ntwo\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == stat.S_IMODE(path.parent.parent.stat().st_mode) == 0o700


def test_existing_folders_are_unchanged(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    private_folder(tmp_path)
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755


@pytest.mark.parametrize("existing", [None, b"old"])
def test_failure_keeps_the_old_file_and_leaves_no_temporary_file(tmp_path: Path, existing: bytes | None) -> None:
    path = tmp_path / "x.bin"
    if existing is not None:
        path.write_bytes(existing)
    with pytest.raises(RuntimeError):
        fail_half_way(path)
    assert [p.name for p in tmp_path.iterdir()] == (["x.bin"] if existing else [])
    assert existing is None or path.read_bytes() == existing


def test_store_gets_the_whole_object_or_none(bucket: UPath, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    path = bucket / "x.txt"
    with pytest.raises(RuntimeError):
        fail_half_way(path)
    assert not path.exists()
    with atomic_writer(path) as file:
        file.write("whole")
    assert path.read_bytes() == b"whole"
    assert not list(tmp_path.iterdir())


def test_tilde_is_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert as_path("~/rejects.jsonl") == as_path(Path("~/rejects.jsonl")) == tmp_path / "rejects.jsonl"
    monkeypatch.chdir(tmp_path)
    assert as_path("a~/b") == tmp_path / "a~/b"
    assert as_path("file:///a/~") == Path("/a/~")


def test_relative_path_becomes_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for given in ("r.jsonl", Path("r.jsonl"), "file://r.jsonl"):
        assert as_path(given) == tmp_path / "r.jsonl"
    monkeypatch.chdir("/")
    assert as_path("r.jsonl") == Path("/r.jsonl")


@pytest.mark.parametrize(
    ("given", "said"),
    [("~nobody-of-this-name/x", "home folder is not known"), ("None", "'None'"), (" ", "a template renders an empty")],
)
def test_path_that_names_no_file_is_refused(given: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        as_path(given)


def test_path_without_file_system_is_written_by_open() -> None:
    class Plain:
        name, suffix, parent, protocol = "x", "", None, "own"
        body = b""

        def open(self, mode: str) -> object:
            return os.fdopen(os.dup(self.number), mode)

        exists = glob = iterdir = unlink = None

    path = Plain()
    reading, path.number = os.pipe()
    with atomic_writer(path, "wb") as file:
        file.write(b"whole")
    os.close(path.number)
    with os.fdopen(reading, "rb") as pipe:
        assert pipe.read() == b"whole"


def test_writer_may_have_closed_the_file(tmp_path: Path) -> None:
    with atomic_writer(tmp_path / "x", "wb") as file:
        file.write(b"whole")
        file.close()
    assert (tmp_path / "x").read_bytes() == b"whole"


def test_sibling_paths(tmp_path: Path, bucket: UPath) -> None:
    assert sibling(tmp_path / "x.csv", ".lock") == tmp_path / "x.csv.lock"
    assert str(sibling(bucket / "x.csv", ".lock")) == f"{bucket}/x.csv.lock"
    assert str(indexed(bucket / "a.b.csv.gz", 3)) == f"{bucket}/a.b.3.csv.gz", "its suffix still says the format"
    assert indexed(tmp_path / "a", 0) == tmp_path / "a.0"


@pytest.mark.parametrize("mode", ["w", "wb"])
def test_error_of_another_file_is_unchanged(mode: Literal["w", "wb"], tmp_path: Path) -> None:
    path = tmp_path / "whole"
    with pytest.raises(FileNotFoundError, match="another") as missing, atomic_writer(path, mode):
        (tmp_path / "another").read_bytes()
    assert not isinstance(missing.value, CannotWrite)
    assert list(tmp_path.iterdir()) == []


def test_error_for_a_folder_that_cannot_be_created_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "folder").write_text("a file")
    path = tmp_path / "folder" / "whole"
    with pytest.raises(CannotWrite, match=f"{path} cannot be written: "), atomic_writer(path):
        raise AssertionError("nothing is begun")
