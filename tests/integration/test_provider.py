"""What Airflow finds when the package is installed, and what its command line does with a connection."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.resources
import inspect
import json
import os
import pkgutil
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from airflow.triggers.base import BaseTrigger

import crm_provider
from crm_provider._compat import BaseHook, BaseOperator
from crm_provider.client.settings import Settings
from crm_provider.errors.on_error import Work
from crm_provider.errors.policy import OPERATORS, PRESETS
from crm_provider.get_provider_info import get_provider_info
from crm_provider.operators.base import CrmOperator
from crm_provider.operators.load_base import CrmLoadOperator
from crm_provider.sandbox import Sandbox
from crm_provider.sensors.base import CrmSensor

ROOT = Path(__file__).resolve().parents[2]
INFO = get_provider_info()
LISTED = {
    module
    for part in ("hooks", "operators", "sensors", "triggers", "transfers")
    for entry in INFO.get(part, [])
    for module in entry.get("python-modules", [entry.get("python-module")])
}


def airflow(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line of the Airflow under test."""
    return subprocess.run(
        [sys.executable, "-m", "airflow", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def python(script: str, *arguments: str, **environment: str) -> str:
    """What a script prints in an interpreter of its own."""
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


# -- discovery ----------------------------------------------------------------------------------------------


def test_the_entry_point_is_the_providers() -> None:
    (found,) = [
        entry
        for entry in importlib.metadata.entry_points(group="apache_airflow_provider")
        if entry.dist is not None and entry.dist.name == INFO["package-name"]
    ]
    assert found.load()() == INFO


def test_reading_it_imports_nothing() -> None:
    """Airflow does so in every one of its processes."""
    script = (
        "import sys\n"
        "from crm_provider.get_provider_info import get_provider_info\n"
        "get_provider_info()\n"
        "watched = ('airflow', 'requests', 'tenacity', 'crm_provider')\n"
        "print(*sorted(name for name in sys.modules if name.partition('.')[0] in watched))"
    )
    assert python(script).split() == ["crm_provider", "crm_provider.get_provider_info"]


def test_it_is_valid_in_airflows_schema() -> None:
    from jsonschema import Draft7Validator

    schema = json.loads(importlib.resources.files("airflow").joinpath("provider_info.schema.json").read_text())
    assert [error.message for error in Draft7Validator(schema).iter_errors(INFO)] == []
    assert set(INFO) - {"package-name"} <= set(schema["properties"]), "a misspelt key would be ignored"


def test_its_form_fields_are_of_the_kind_that_airflow_reads() -> None:
    """3.2+ reads label, description and a JSON schema; the schemas are valid and accept their own defaults."""
    from jsonschema import Draft7Validator

    (connection,) = INFO["connection-types"]
    assert set(connection) == {"connection-type", "hook-class-name", "hook-name", "conn-fields", "ui-field-behaviour"}
    for name, described in connection["conn-fields"].items():
        assert set(described) == {"label", "description", "schema"}, name
        Draft7Validator.check_schema(described["schema"])
        Draft7Validator(described["schema"]).validate(described["schema"].get("default"))
        Draft7Validator(described["schema"]).validate(None)
    behaviour = connection["ui-field-behaviour"]
    assert set(behaviour) == {"hidden-fields", "relabeling", "placeholders"}
    assert set(behaviour["hidden-fields"]) == {"schema", "login"}, "without a port Airflow 3.3 refuses to test"
    assert behaviour["relabeling"] == {"host": "Base URL", "password": "API key"}


def test_the_form_has_a_field_for_each_extra_and_leaves_to_the_site_what_the_site_may_say() -> None:
    from crm_provider.client.settings import EXTRAS
    from crm_provider.config import CONNECTION_DEFAULTS

    fields = INFO["connection-types"][0]["conn-fields"]
    assert set(fields) == set(EXTRAS)
    settings = Settings(api_key="key")
    assert {name: field["schema"].get("default") for name, field in fields.items()} == {
        name: None if name in CONNECTION_DEFAULTS else getattr(settings, name) for name in EXTRAS
    }
    for name in CONNECTION_DEFAULTS:
        default = getattr(settings, name)
        assert ("this host" if default is None else f"else {default:g}") in fields[name]["description"]


MANAGER = """
import json, logging, warnings
records = []
class Handler(logging.Handler):
    def emit(self, record): records.append(record.getMessage())
logging.getLogger("airflow.providers_manager").addHandler(Handler(logging.WARNING))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    from airflow.providers_manager import ProvidersManager
    manager = ProvidersManager()
    provider = manager.providers["airflow-provider-crm"]
    hook = manager.hooks["crm"]
    widgets = getattr(manager, "_connection_form_widgets_from_metadata", None) or manager.connection_form_widgets
    behaviours = getattr(manager, "_field_behaviours_from_metadata", None) or manager.field_behaviours
said = [str(w.message) for w in caught] + records
print(json.dumps({
    "version": provider.version,
    "hook": [hook.hook_class_name, hook.connection_type, hook.hook_name, hook.connection_testable],
    "fields": sorted(name for name, widget in widgets.items() if "crm" in widget.hook_class_name),
    "behaviour": behaviours.get("crm"),
    "warnings": [text for text in said if "crm" in text.lower()],
}))
"""


def test_the_providers_manager_has_it_without_a_warning() -> None:
    found = json.loads(python(MANAGER).splitlines()[-1])
    assert found["version"] == crm_provider.__version__
    assert found["hook"] == ["crm_provider.hooks.crm.CrmHook", "crm", "CRM", True]
    if found["behaviour"]:  # Airflow 3.1 asks the hook, and only where the form is made
        assert found["fields"] == sorted(f"extra__crm__{name}" for name in INFO["connection-types"][0]["conn-fields"])
        assert set(found["behaviour"]["hidden_fields"]) == {"schema", "login"}
    assert found["warnings"] == []


# -- what it lists ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", sorted(LISTED))
def test_a_listed_module_can_be_imported(module: str) -> None:
    importlib.import_module(module)


def test_every_module_with_something_for_users_is_listed() -> None:
    found = set()
    for part in ("hooks", "operators", "sensors", "triggers", "transfers"):
        for _, name, _ in pkgutil.iter_modules([str(Path(crm_provider.__file__).parent / part)]):
            module = importlib.import_module(f"crm_provider.{part}.{name}")
            own = [c for _, c in inspect.getmembers(module, inspect.isclass) if c.__module__ == module.__name__]
            if any(issubclass(c, (BaseHook, BaseOperator, BaseTrigger)) for c in own):
                found.add(module.__name__)
    bases = {"crm_provider.operators.base", "crm_provider.operators.load_base", "crm_provider.sensors.base"}
    assert found - bases == LISTED


def operators() -> Iterator[type]:
    """All operators and sensors that users may name."""
    for module in sorted(LISTED):
        for _, found in inspect.getmembers(importlib.import_module(module), inspect.isclass):
            public = not found.__name__.startswith("_")
            if issubclass(found, BaseOperator) and found.__module__ == module and public:
                yield found


@pytest.mark.parametrize("operator", operators(), ids=lambda operator: operator.__name__)
def test_every_operator_has_a_policy(operator: Any) -> None:
    assert issubclass(operator, (CrmOperator, CrmSensor))
    assert operator.policy_name == operator.__name__
    kinds = {CrmSensor: Work.SENSOR, CrmLoadOperator: Work.LOAD}
    assert operator.work is next((work for base, work in kinds.items() if issubclass(operator, base)), Work.TASK)
    assert OPERATORS[operator.__name__] is operator.work
    assert "crm_conn_id" in operator.template_fields


def test_no_policy_is_of_an_operator_that_is_not_there() -> None:
    names = {operator.__name__ for operator in operators()}
    assert {name.partition("(")[0] for name in [*OPERATORS, *PRESETS]} == names
    assert set(PRESETS) <= set(OPERATORS)


# -- airflow connections test -------------------------------------------------------------------------------

TEST_EACH = """
import sys
from airflow.cli import cli_parser
parser = cli_parser.get_parser()
for name in sys.argv[1:]:
    arguments = parser.parse_args(["connections", "test", name])
    print("::", name, flush=True)
    try:
        arguments.func(arguments)
        code = 0
    except SystemExit as end:
        code = end.code
    print(":: code", code, flush=True)
"""


def run_connections_test(*names: str, **connections: str) -> dict[str, tuple[int, str]]:
    """Exit code and output of ``airflow connections test`` for each connection, all in one process.

    (Airflow 3.1 ends with code 0 whatever the test says.)
    """
    environment = {f"AIRFLOW_CONN_{name.upper()}": value for name, value in connections.items()}
    output = python(TEST_EACH, *names, AIRFLOW__CORE__TEST_CONNECTION="Enabled", COLUMNS="1000", **environment)
    found = re.findall(r"^:: (\w+)\n(.*?)^:: code (\d+)$", output, re.DOTALL | re.MULTILINE)
    return {name: (int(code), text) for name, text, code in found}


def test_connections_test(crm_sandbox: Sandbox, airflow_db: Path) -> None:
    """All that a test of a connection may say is in ``test_connection_test.py``."""
    key = crm_sandbox.api_key
    connections = {
        "fine": {"host": crm_sandbox.url, "password": key},
        "wrong_key": {"host": crm_sandbox.url, "password": "another-key"},
        "no_key": {"host": crm_sandbox.url},
        "public_http": {"host": "http://connect.pingback.com/v2", "password": key},
    }
    found = run_connections_test(
        *connections, **{n: json.dumps({"conn_type": "crm", **c}) for n, c in connections.items()}
    )
    succeeded = [name for name, (code, text) in found.items() if "Connection success" in text and code == 0]
    failed = [name for name, (_, text) in found.items() if "Connection failed" in text]
    assert (succeeded, failed) == (["fine"], ["wrong_key", "no_key", "public_http"])
    says = {
        "wrong_key": "FORBIDDEN (403)",
        "no_key": "API key (field Password) is empty",
        "public_http": "plain HTTP to connect.pingback.com",
    }
    assert [found[name][1] for name, part in says.items() if part not in found[name][1]] == []
    assert not [name for name, (_, text) in found.items() if str(key) in text]
    assert crm_sandbox.counters().total == 2, "one call each, and no retries"


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        pytest.param({}, "The CRM at {url}responds and accepts the key.", id="plain"),
        pytest.param(
            {"developer_mode": True},
            "The CRM at {url}responds and accepts the key in developer mode (fake data).",
            id="fake",
        ),
    ],
)
def test_the_test_button_says_what_was_tested(
    extra: dict[str, Any], message: str, crm_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow.models.connection import Connection

    monkeypatch.setenv("AIRFLOW_CONN_CRM_DEFAULT", crm_sandbox.connection_json(**extra))
    connection = Connection(conn_id="crm_default", conn_type="crm")
    assert connection.test_connection() == (True, message.format(url=crm_sandbox.url))


# -- airflow connections add --------------------------------------------------------------------------------


def commands_of(file: str) -> list[Sequence[str]]:
    """The ``airflow connections add`` commands that a document shows."""
    lines = (ROOT / file).read_text().splitlines()
    return [shlex.split(line) for line in map(str.strip, lines) if line.startswith("airflow connections add")]


def test_the_command_that_documents_show(airflow_db: Path) -> None:
    from airflow.models.connection import Connection
    from airflow.utils.session import create_session
    from sqlalchemy import delete, select

    (short,), (command,) = commands_of("README.md"), commands_of("docs/connection.md")
    assert command[: len(short)] == short, "the same, with less"
    connection_id = "crm_of_documents"
    words = [{"crm_default": connection_id, "<your API key>": "Sesame-1"}.get(word, word) for word in command[1:]]
    done = airflow(*words, AIRFLOW__CORE__FERNET_KEY="")
    assert done.returncode == 0, done.stderr[-2000:]
    with create_session() as session:
        added = session.scalars(select(Connection).where(Connection.conn_id == connection_id)).one()
        settings = Settings.from_fields(
            host=added.host, port=added.port, password=added.password, extra=added.extra_dejson
        )
        assert added.conn_type == "crm"
        session.execute(delete(Connection).where(Connection.conn_id == connection_id))
    assert settings.api_key == "Sesame-1"
    assert settings.base_url == "https://connect.pingback.com/v2"


def variables_of(file: str) -> list[str]:
    """The values of ``AIRFLOW_CONN_CRM_DEFAULT`` that a document shows."""
    text = (ROOT / file).read_text()
    return re.findall(r"^\s*export AIRFLOW_CONN_CRM_DEFAULT='([^']+)'$", text, re.MULTILINE)


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(value, id=f"{file} {value[:8]}")
        for file in ("README.md", "docs/connection.md")
        for value in variables_of(file)
    ],
)
def test_the_variable_that_a_document_shows(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from crm_provider.hooks.crm import CrmHook

    monkeypatch.setenv("AIRFLOW_CONN_CRM_DEFAULT", value.replace("<your API key>", "Sesame-1"))
    settings = CrmHook().get_conn().settings
    assert settings.api_key == "Sesame-1"
    assert settings.base_url == "https://connect.pingback.com/v2"
