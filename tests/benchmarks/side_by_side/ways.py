"""The compared clients that load a file into the CRM: how to run each, and how to read its report."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crm_provider.sandbox import Sandbox

HERE = Path(__file__).resolve().parent
RIVALS = HERE.parent / "rivals"
MAX_MAP_LENGTH = 4096
"""Airflow's default of 1,024 mapped tasks is too low for 2,000 rows."""


@dataclass(frozen=True, kw_only=True)
class Claims:
    """A client's report about its rows.

    :param green: whether the run succeeded
    :param created: reported number of created rows
    :param failed: addresses of the rows that are reported as failed, as in the file
    :param left: reported number of rows that were not processed
    """

    green: bool
    created: int
    failed: frozenset[str] = frozenset()
    left: int = 0


@dataclass(frozen=True)
class Ran:
    """One run of a client's DAG.

    :param started: time of a clock that all processes of this machine share, like ``ended``
    :param xcoms: XComs by task, map index and key
    :param rejects: the rejects file, if the client writes one
    """

    started: float
    ended: float
    cpu: float
    state: str
    tasks: dict[tuple[str, int], str | None]
    xcoms: dict[tuple[str, int, str], Any]
    rejects: Path
    peak_mb: float = 0.0
    base_mb: float = 0.0

    @property
    def seconds(self) -> float:
        return self.ended - self.started


@dataclass(frozen=True)
class Way:
    """A client that loads a file.

    :param file: the DAG file in ``rivals``, named after the DAG's id
    :param said: reads the client's report from a run
    """

    name: str
    file: str
    claims: Callable[[Ran], Claims] = field(repr=False)

    @property
    def lines(self) -> int:
        """Lines of code that a user writes, without blank lines."""
        return sum(bool(line.strip()) for line in (RIVALS / self.file).read_text(encoding="utf-8").splitlines())

    def run(self, crm: Sandbox, confs: Sequence[dict[str, str]]) -> list[Ran]:
        """Run the DAG once per configuration, one after the other, in another process."""
        with home() as folder:
            result, log = folder / "result.json", folder / "log.txt"
            job = {"file": self.file, "dag_id": Path(self.file).stem, "confs": list(confs), "result": str(result)}
            command = [sys.executable, str(HERE / "worker.py"), json.dumps(job)]
            with log.open("wb") as output:
                code = subprocess.run(
                    command, env=environment(folder, crm), stdout=output, stderr=output, check=False
                ).returncode
            if code or not result.exists():
                sys.exit(f"{self.file} ended with {code}:\n{log.read_text(errors='replace')[-5000:]}")
            written = json.loads(result.read_text(encoding="utf-8"))
        return [ran(one, conf, written) for one, conf in zip(written["runs"], confs, strict=True)]


def ran(one: dict[str, Any], conf: dict[str, str], written: dict[str, Any]) -> Ran:
    return Ran(
        started=one["started"],
        ended=one["ended"],
        cpu=one["cpu"],
        state=one["state"],
        tasks={(task, index): state for task, index, state in one["tasks"]},
        xcoms={(task, index, key): value for task, index, key, value in one["xcoms"]},
        rejects=Path(conf.get("rejects", os.devnull)),
        peak_mb=written["peak_mb"],
        base_mb=written["base_mb"],
    )


@contextmanager
def home() -> Iterator[Path]:
    """A home for a separate Airflow."""
    with tempfile.TemporaryDirectory(prefix="crm-bench-") as folder:
        (Path(folder) / "dags").mkdir()
        yield Path(folder)


def environment(folder: Path, crm: Sandbox) -> dict[str, str]:
    """The environment: nothing of the caller's Airflow, and two connections to the same CRM."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "_AIRFLOW"))}
    http = {"conn_type": "http", "host": crm.url, "password": crm.api_key}
    return {
        **kept,
        "AIRFLOW_HOME": str(folder),
        "AIRFLOW_CONN_CRM_DEFAULT": crm.connection_json(),
        "AIRFLOW_CONN_CRM_HTTP": json.dumps(http),
        "AIRFLOW__CORE__DAGS_FOLDER": str(folder / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__MAX_MAP_LENGTH": str(MAX_MAP_LENGTH),
        "AIRFLOW__CORE__MIN_SERIALIZED_DAG_UPDATE_INTERVAL": "0",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{folder}/airflow.db",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        "NO_PROXY": "127.0.0.1",
    }


# -- reports -------------------------------------------------------------------------------------------------


def said_by_tasks(ran: Ran) -> Claims:
    """A mapped task is a row, and its state is the report."""
    bodies = [json.loads(body)["email"] for body in ran.xcoms["bodies", -1, "return_value"]]
    created = [value for (task, _, key), value in ran.xcoms.items() if task == "create" and key == "return_value"]
    updates = [one["email"] for one in created if one["existed"]]
    failed = {bodies[n] for (task, n), state in ran.tasks.items() if task == "create" and state == "failed"}
    failed |= {updates[n] for (task, n), state in ran.tasks.items() if task == "update" and state == "failed"}
    return Claims(green=ran.state == "success", created=len(created) - len(updates), failed=frozenset(failed))


def said_by_loop(ran: Ran) -> Claims:
    counts, failed = ran.xcoms.get(("load", -1, "counts"), {}), frozenset[str]()
    if ran.rejects.is_file():
        with ran.rejects.open(newline="", encoding="utf-8") as file:
            failed = frozenset(row["email"] for row in csv.DictReader(file))
    return Claims(green=ran.state == "success", created=counts.get("created", 0), failed=failed)


def said_by_load(ran: Ran) -> Claims:
    summary = ran.xcoms.get(("load", -1, "return_value"), {})
    lines = ran.rejects.read_text(encoding="utf-8").splitlines() if ran.rejects.is_file() else []
    failed = frozenset(email_in(json.loads(line)) for line in lines)
    return Claims(
        green=ran.state == "success", created=summary.get("created", 0), failed=failed, left=summary.get("left", 0)
    )


def email_in(line: dict[str, Any]) -> str:
    """The address in a line of a rejects file (JSON lines)."""
    return str(line["values"].get("email") or "")


HTTP_OPERATOR = Way("`HttpOperator` for each row", "http_operator.py", said_by_tasks)
REQUESTS_LOOP = Way("`requests` and `tenacity` in a loop", "requests_loop.py", said_by_loop)
OURS = Way("`CrmLoadContactsOperator`", "ours.py", said_by_load)
WAYS = (HTTP_OPERATOR, REQUESTS_LOOP, OURS)
