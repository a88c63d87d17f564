"""Nothing leaks: the API key nowhere, and a contact's values nowhere but where the DAG author put them.

One run of every operator and sensor, in success and in every kind of failure, is searched: what is printed at level
DEBUG (urllib3's log, too), exceptions with all they hang on, XComs, every table of the database, reprs.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCENE = Path(__file__).with_name("leak_scene.py")

PLANTED = {
    "key": "key-Zq8xPlanted-Wv3",
    "email": "zq8xlocal.part+tag@zq8xdomain.example",
    "name": "Zq8xforename Zq8xsurname",
    "phone": "+4930987654321",
    "webhook": "Zq8xwebhook",
}
TRACES = {
    "key": "zq8xplanted",
    "email": "zq8xlocal|zq8xdomain",
    "name": "zq8xforename|zq8xsurname",
    "phone": "30987654321",
    "webhook": "zq8xwebhook",
}
"""What tells that one of them is in a text, in whatever spelling or part."""

THE_AUTHORS = re.compile(
    r"msg=SetRenderedFields\(|msg=DeferTask\("
    r"|Returned value was: \[\{'contact_email'|key='return_value', value=\[\{'contact_email'"
)
"""Airflow's own log at level DEBUG: rendered fields, what a deferred task hands over, what the author's task gave."""

COLOURS = re.compile(r"\x1b\[[\d;]*m")
"""Airflow 3.1.0 writes them into a pipe, too."""

AUTHORS_TABLES = {"serialized_dag", "rendered_task_instance_fields", "trigger"}
"""Where Airflow keeps what the DAG author wrote, what it was rendered to, and what a deferred task waits for."""


@pytest.fixture
def left(tmp_path: Path) -> dict[str, Any]:
    """What the run left behind."""
    home = tmp_path
    (home / "dags").mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW_", "_AIRFLOW_"))}
    environment |= {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(home / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "DEBUG",
        "PLANTED": json.dumps(PLANTED),
    }
    done = subprocess.run(
        [sys.executable, SCENE, home / "left.json"],
        env=environment,
        cwd=home,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1800,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    return {**json.loads((home / "left.json").read_text()), "log": COLOURS.sub("", done.stdout)}


def lines_with(what: str, text: str) -> list[str]:
    """The lines that tell one of the planted values, shortened around it."""
    found = [(line, re.search(TRACES[what], line, re.IGNORECASE)) for line in text.splitlines()]
    return list(dict.fromkeys(line[max(hit.start() - 200, 0) : hit.end() + 40] for line, hit in found if hit))


def test_nothing_leaks(left: dict[str, Any]) -> None:
    """One test, for the run takes a minute: a key nowhere, values only in the database, where the author put them."""
    assert_it_happened(left)
    own = "\n".join(line for line in left["log"].splitlines() if not THE_AUTHORS.search(line))
    elsewhere = {"errors": "\n".join(left["errors"]), "objects": "\n".join(left["objects"])}
    tables = {name: rows for name, rows in left["tables"].items() if name not in AUTHORS_TABLES}
    tables["xcom"] = "\n".join(row for row in tables["xcom"].splitlines() if "'rows'" not in row)
    everywhere = {"log": left["log"], **elsewhere, **left["tables"]}
    places = {"key": everywhere, "webhook": everywhere}
    found = {
        f"{what} in {place}": lines_with(what, text)[:5]
        for what in TRACES
        for place, text in places.get(what, {"log": own, **elsewhere, **tables}).items()
    }
    assert {place: lines for place, lines in found.items() if lines} == {}


def assert_it_happened(left: dict[str, Any]) -> None:
    """Else the search would find nothing, and say nothing."""
    assert left["calls"] > 40
    assert len(left["errors"]) > 20
    assert "[urllib3.connectionpool]" in left["log"]
    assert '"GET /... HTTP/1.1" 200' in left["log"]
    assert left["log"].count("crm_error") > 20
    assert lines_with("email", left["tables"]["rendered_task_instance_fields"])
    assert lines_with("name", left["tables"]["serialized_dag"])
    for effect in ("FORBIDDEN", "CONNECTION", "HTTP_200", "HTTP_302", "HTTP_418", "HTTP_409", "BAD_GATEWAY"):
        assert f"{effect} " in left["log"], effect
