"""The process of a worker: it runs loads, extracts, sensors and watches through the hook, like Airflow's processes.

Loads and extracts keep their checkpoints in files, and a watch its cursor, so that a new worker continues after a kill.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import threading
import time
from pathlib import Path
from typing import Any


class Worker:
    """Runs the requested work. The methods return data.

    :param folder: folder of its log
    """

    def __init__(self, folder: str, name: str) -> None:
        log = os.open(Path(folder, f"{name}.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
        import crm_provider.hooks.crm  # noqa: F401 - its memory must not count for the first load

        self._events: list[tuple[str, float, dict[str, Any]]] = []
        self._loop = asyncio.new_event_loop()
        self._tasks: dict[str, Any] = {}
        threading.Thread(target=self._loop.run_forever, name="triggerer", daemon=True).start()

    def objects(self) -> int:
        """The number of Python objects after garbage collection."""
        gc.collect()
        return len(gc.get_objects())

    # -- loads -------------------------------------------------------------------------------------------------

    def load(self, account: int, kind_name: str, given: dict[str, Any]) -> dict[str, Any]:
        """One try of a load.

        :param given: the arguments, with ``source`` and ``checkpoint_path``
        :return: the summary, with ``error`` if an error ended the try before its last row
        """
        from crm_provider.errors.on_error import Work
        from crm_provider.errors.policy import ErrorPolicy, with_mode
        from crm_provider.files.paths import as_path
        from crm_provider.hooks.load_run import LoadRun
        from crm_provider.load.report import LoadStopped
        from crm_provider.load.sources.source import open_source
        from crm_provider.load.state.checkpoint import FileCheckpoints

        kind, operator = _kind(kind_name)
        hook = _hook(account)
        run = LoadRun(
            kind=kind,
            given=given,
            policy=ErrorPolicy(work=Work.LOAD, operator=with_mode(operator, given.get("mode", "upsert"))),
            crm_conn_id=hook.crm_conn_id,
            bulk_client=hook.bulk_client,
            open_source=lambda: open_source(given["source"]),
            path=lambda name: None if given.get(name) is None else as_path(given[name]),
            report_path=None,
            checkpoints=lambda _: FileCheckpoints(as_path(given["checkpoint_path"])),
        )
        try:
            return run.run()
        except LoadStopped as stopped:
            return {"error": stopped.error.type, "message": str(stopped)}

    # -- extracts ----------------------------------------------------------------------------------------------

    def extract(self, account: int, listing: Any, target: str, work: str) -> dict[str, Any]:
        """Run one try of an extract and return its counts, or ``error``."""
        from crm_provider.errors import CrmError
        from crm_provider.extract.extractor import Extractor
        from crm_provider.extract.partial_pages import Owner

        with _hook(account).bulk_client() as client:
            try:
                return dict(Extractor(client, listing, target, owner=Owner(work=work)).run())
            except CrmError as error:
                return {"error": error.type, "message": str(error)}

    # -- triggers ----------------------------------------------------------------------------------------------

    def wait(self, name: str, account: int, condition: dict[str, Any], interval: float, seconds: float) -> None:
        """Start a wait for a condition, like a deferred sensor."""
        from crm_provider.triggers.poll import CrmPollTrigger

        self._start(
            name,
            CrmPollTrigger(
                condition=condition,
                crm_conn_id=_conn_id(account),
                poke_interval=interval,
                deadline=time.time() + seconds,
            ),
        )

    def watch(self, name: str, account: int, kind: str, group: str, interval: float, store: str) -> None:
        """Start a watch of a list or a stage.

        :param store: file with the cursor, in place of the asset's state store
        """
        from crm_provider.triggers.watch import CrmDealStageTrigger, CrmListJoinedTrigger

        trigger: Any
        if kind == "list":
            trigger = CrmListJoinedTrigger(list_id=group, crm_conn_id=_conn_id(account), poke_interval=interval)
        else:
            trigger = CrmDealStageTrigger(stage_id=group, crm_conn_id=_conn_id(account), poke_interval=interval)
        trigger.asset_state_store = FileStore(Path(store))
        self._start(name, trigger)

    def events(self) -> list[tuple[str, float, dict[str, Any]]]:
        """Events of the triggers since the last call: name, time and payload. They count as delivered."""
        found, self._events = self._events, []
        return found

    def waits(self) -> list[str]:
        """The names of the running triggers."""
        return [name for name, task in list(self._tasks.items()) if not task.done()]

    def _start(self, name: str, trigger: Any) -> None:
        self._tasks[name] = asyncio.run_coroutine_threadsafe(self._run(name, trigger), self._loop)

    async def _run(self, name: str, trigger: Any) -> None:
        try:
            async for event in trigger.run():
                self._events.append((name, time.monotonic(), event.payload))
        except Exception as broken:
            self._events.append((name, time.monotonic(), {"crashed": repr(broken)}))
            raise
        finally:
            del self._tasks[name]


class FileStore:
    """The state store of an asset, in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def aget(self, key: str, default: Any = None) -> Any:
        return self._read().get(key, default)

    async def aset(self, key: str, value: Any) -> None:
        new = self._path.with_suffix(".new")
        new.write_text(json.dumps({**self._read(), key: value}), encoding="utf-8")
        new.replace(self._path)

    def _read(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._path.read_text(encoding="utf-8")) if self._path.exists() else {}
        return found


def _conn_id(account: int) -> str:
    return f"soak_{account}"


def _hook(account: int) -> Any:
    from crm_provider.hooks.crm import CrmHook

    return CrmHook(_conn_id(account))


def _kind(name: str) -> Any:
    from crm_provider.load.kinds.contacts import CONTACTS
    from crm_provider.load.kinds.deals import DEALS
    from crm_provider.load.kinds.deletions import DELETIONS

    return {
        "contacts": (CONTACTS, "CrmLoadContactsOperator"),
        "deals": (DEALS, "CrmLoadDealsOperator"),
        "deletions": (DELETIONS, "CrmDeleteContactsOperator"),
    }[name]
