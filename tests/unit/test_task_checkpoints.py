"""The store of a task's checkpoint, which is never shared with another task."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from upath import UPath

from crm_provider._compat import AirflowRuntimeError
from crm_provider.load.rows import SourceError
from crm_provider.load.state.checkpoint import Checkpoint, NoCheckpoints
from crm_provider.tasks.state import (
    STATE_KEY,
    TaskStateCheckpoints,
    check_kept,
    checkpoints_for,
    identity_of,
    site_report,
)

from .fakes import logged

CHECKPOINT = Checkpoint(epoch=1, fingerprint="f", done_upto=7, done_above=(9,), counts={"created": 8})


def context(store: Any = None, **changes: Any) -> Any:
    ti = SimpleNamespace(**{"dag_id": "d", "run_id": "r", "task_id": "t", "map_index": -1, **changes})
    return {"ti": ti, **({"task_state_store": store} if store is not None else {})}


class Store(dict[str, Any]):
    """The part of Airflow's store that is used."""

    broken = False

    def set(self, key: str, value: Any) -> None:
        if self.broken:
            raise AirflowRuntimeError.__new__(AirflowRuntimeError)
        self[key] = value


def test_airflows_store_is_used_if_available(tmp_path: Path) -> None:
    store = Store()
    kept = checkpoints_for(context(store), path=None, beside=tmp_path / "r.jsonl")
    assert kept.load() is None
    kept.save(CHECKPOINT)
    assert kept.load() == CHECKPOINT
    assert list(store) == [STATE_KEY]
    kept.clear()
    assert kept.load() == CHECKPOINT, "a try after an unrecorded success finds all rows done"
    assert list(tmp_path.iterdir()) == []


def test_invalid_checkpoint_is_not_used(caplog: pytest.LogCaptureFixture) -> None:
    kept = TaskStateCheckpoints(Store({STATE_KEY: {"rows": 1}}))
    assert kept.load() is None
    assert "is not used" in caplog.text


def test_load_continues_while_airflow_is_unavailable(caplog: pytest.LogCaptureFixture) -> None:
    store = Store()
    store.broken = True
    TaskStateCheckpoints(store).save(CHECKPOINT)
    assert "the load continues" in caplog.text


@pytest.mark.parametrize("asked_for", [True, False])
def test_file_replaces_airflows_store(asked_for: bool, tmp_path: Path) -> None:
    where = {"path": tmp_path / "c", "beside": None} if asked_for else {"path": None, "beside": tmp_path / "r.jsonl"}
    kept = checkpoints_for(context(Store() if asked_for else None), **where)
    kept.save(CHECKPOINT)
    (file,) = tmp_path.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    again = checkpoints_for(context(), **where).load()
    assert again is not None
    assert again.done_above == (9,)
    kept.clear()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("change", [{"dag_id": "x"}, {"run_id": "x"}, {"task_id": "x"}, {"map_index": 3}])
def test_checkpoint_of_another_task_is_never_used(change: dict[str, Any], tmp_path: Path) -> None:
    checkpoints_for(context(), path=tmp_path / "c", beside=None).save(CHECKPOINT)
    assert checkpoints_for(context(**change), path=tmp_path / "c", beside=None).load() is None
    checkpoints_for(context(), path=None, beside=tmp_path / "r.jsonl").save(CHECKPOINT)
    assert checkpoints_for(context(**change), path=None, beside=tmp_path / "r.jsonl").load() is None
    assert identity_of(context()["ti"]) != identity_of(context(**change)["ti"])


def test_missing_store_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        kept = checkpoints_for(context(), path=None, beside=None)
    assert isinstance(kept, NoCheckpoints)
    assert len(logged(caplog)) == 1
    assert "outcomes_path and report_path is set. Set" in caplog.text
    assert "will start with its first row: Airflow below 3.3 has no task state store" in caplog.text
    assert "Set work_directory in section [crm] of Airflow's configuration, or checkpoint_path." in caplog.text


def test_unusable_default_folder_does_not_fail_a_load(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tmp_path.chmod(0o777)  # others may write to it
    assert isinstance(checkpoints_for(context(), path=None, beside=tmp_path / "crm_load"), NoCheckpoints)
    assert f"first row: its checkpoint cannot be written to {tmp_path}/crm_load." in caplog.text
    tmp_path.chmod(0o700)
    assert not isinstance(checkpoints_for(context(), path=None, beside=tmp_path / "crm_load"), NoCheckpoints)


def test_each_load_of_a_task_has_its_own_file(tmp_path: Path) -> None:
    for number, key in enumerate([STATE_KEY, f"{STATE_KEY}_2"]):
        kept = checkpoints_for(context(), path=None, beside=tmp_path / "crm_load", key=key)
        assert kept.load() is None
        kept.save(replace(CHECKPOINT, calls=number))
    assert len(list(tmp_path.iterdir())) == 2


# -- the site's folder, and pods ----------------------------------------------------------------------------


def test_sites_folder_is_used_below_airflow_33(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("AIRFLOW__CRM__WORK_DIRECTORY", f"{tmp_path}/work/")
    caplog.set_level(logging.INFO)
    first = checkpoints_for(context(), path=None, beside=tmp_path / "r.jsonl")
    second = checkpoints_for(context(run_id="r/2", map_index=3), path=None, beside=None, key="crm_load_2")
    first.save(CHECKPOINT)
    second.save(replace(CHECKPOINT, done_upto=9))
    assert sorted(path.name for path in (tmp_path / "work").iterdir()) == [
        "d__r_2__t__3.crm_load_2.json", "d__r__t.crm_load.json",
    ]  # fmt: skip
    loaded = checkpoints_for(context(), path=None, beside=None).load()
    assert loaded is not None
    assert loaded.done_upto == CHECKPOINT.done_upto
    assert f"The checkpoint of this load is kept in {tmp_path}/work/d__r__t.crm_load.json." in caplog.text
    store = Store()
    checkpoints_for(context(store), path=None, beside=None).save(CHECKPOINT)
    assert list(store) == [STATE_KEY], "Airflow's store is cheaper"
    assert "kept in Airflow's task state store" in caplog.text


@pytest.mark.parametrize("letter", ["d", "ã", "中"])
def test_long_ids_give_a_valid_file_name(letter: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__CRM__WORK_DIRECTORY", str(tmp_path))
    ids = {"dag_id": letter * 250, "run_id": "manual__2026-11-30T00:00:00+00:00", "task_id": letter * 250}
    for index in (0, 1):
        kept = checkpoints_for(context(**ids, map_index=index), path=None, beside=None, key="crm_load_2")
        kept.save(replace(CHECKPOINT, calls=index))
        assert kept.load() is not None
    names = sorted(path.name for path in tmp_path.iterdir())
    assert len(names) == 2, "each instance has its own file"
    assert all(name.startswith(letter * 60) and name.endswith(".crm_load_2.json") for name in names)
    assert all(len(name.encode()) <= 216 for name in names)


@pytest.fixture
def in_a_pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pod with one volume, which is returned."""
    volume = tmp_path / "volume"
    volume.mkdir()
    monkeypatch.setenv("AIRFLOW_IS_K8S_EXECUTOR_POD", "True")
    monkeypatch.setattr(Path, "is_mount", lambda path: path in (Path("/"), volume))
    return volume


def test_disk_of_a_pod_keeps_no_checkpoint(in_a_pod: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert isinstance(checkpoints_for(context(), path=None, beside=tmp_path / "r.jsonl"), NoCheckpoints)
    assert (
        "its checkpoint would be on the disk of this pod, which is deleted after the try. Set work_dir" in caplog.text
    )
    on_volume = checkpoints_for(context(), path=None, beside=in_a_pod / "r.jsonl")
    on_volume.save(CHECKPOINT)
    assert len(list(in_a_pod.iterdir())) == 1


def test_site_report_on_the_disk_of_a_pod_gets_a_warning(
    in_a_pod: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ti = context()["ti"]
    assert site_report(ti) is None
    monkeypatch.setenv("AIRFLOW__CRM__REPORT_DIRECTORY", str(in_a_pod))
    assert site_report(ti) == in_a_pod / "d__r__t.report.md"
    assert not logged(caplog)
    monkeypatch.setenv("AIRFLOW__CRM__REPORT_DIRECTORY", str(tmp_path))
    assert site_report(ti) == tmp_path / "d__r__t.report.md"
    assert len(logged(caplog)) == 1
    assert f"report_directory: {tmp_path}/d__r__t.report.md is on the disk of this pod, which is" in caplog.text


def test_files_on_the_disk_of_a_pod_are_refused(
    in_a_pod: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost: dict[str, Any] = {"state_path": None, "rejects_path": tmp_path / "r.jsonl"}
    with pytest.raises(SourceError, match=r"^rejects_path: .*r\.jsonl is on the disk of this pod, which is deleted"):
        check_kept(lost)
    check_kept({"rejects_path": in_a_pod / "r.jsonl", "state_path": UPath("memory://bucket/state")})
    monkeypatch.delenv("AIRFLOW_IS_K8S_EXECUTOR_POD")
    check_kept(lost)
