"""The installed package as Airflow discovers it."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.resources
import inspect
import json
import os
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
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
from crm_provider.sensors.base import CrmSensor

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
    """Run a script in its own interpreter and return its output."""
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


def test_entry_point_returns_the_provider_info() -> None:
    (found,) = [
        entry
        for entry in importlib.metadata.entry_points(group="apache_airflow_provider")
        if entry.dist is not None and entry.dist.name == INFO["package-name"]
    ]
    assert found.load()() == INFO
    by_name = importlib.import_module(found.dist.name.replace("-", "_"))  # how Airflow looks for example DAGs
    assert not any((Path(folder) / "example_dags").exists() for folder in by_name.__path__)


def test_provider_info_imports_nothing() -> None:
    """Airflow reads it in each of its processes."""
    script = (
        "import sys\n"
        "from crm_provider.get_provider_info import get_provider_info\n"
        "get_provider_info()\n"
        "watched = ('airflow', 'requests', 'tenacity', 'crm_provider')\n"
        "print(*sorted(name for name in sys.modules if name.partition('.')[0] in watched))"
    )
    assert python(script).split() == ["crm_provider", "crm_provider.get_provider_info"]


def test_provider_info_is_valid_in_airflows_schema() -> None:
    from jsonschema import Draft7Validator

    schema = json.loads(importlib.resources.files("airflow").joinpath("provider_info.schema.json").read_text())
    assert [error.message for error in Draft7Validator(schema).iter_errors(INFO)] == []
    assert set(INFO) - {"package-name"} <= set(schema["properties"]), "a misspelt key would be ignored"


def test_connection_form_fields_have_airflows_format() -> None:
    """Airflow 3.2+ reads a label, a description and a JSON schema. Each schema is valid and accepts its default."""
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
    assert set(behaviour["hidden-fields"]) == {"schema", "login"}, "Airflow 3.3 has no connection test without a port"
    assert behaviour["relabeling"] == {"host": "Base URL", "password": "API key"}


def test_connection_form_has_all_extras_without_site_defaults() -> None:
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


def test_providers_manager_loads_the_provider_without_warnings() -> None:
    found = json.loads(python(MANAGER).splitlines()[-1])
    assert found["version"] == crm_provider.__version__
    assert found["hook"] == ["crm_provider.hooks.crm.CrmHook", "crm", "CRM", True]
    if found["behaviour"]:  # Airflow 3.1 reads them from the hook, and only for the form
        assert found["fields"] == sorted(f"extra__crm__{name}" for name in INFO["connection-types"][0]["conn-fields"])
        assert set(found["behaviour"]["hidden_fields"]) == {"schema", "login"}
    assert found["warnings"] == []


# -- listed modules -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", sorted(LISTED))
def test_listed_modules_can_be_imported(module: str) -> None:
    importlib.import_module(module)


def test_every_public_module_is_listed() -> None:
    found = set()
    for part in ("hooks", "operators", "sensors", "triggers", "transfers"):
        for _, name, _ in pkgutil.iter_modules([str(Path(crm_provider.__file__).parent / part)]):
            module = importlib.import_module(f"crm_provider.{part}.{name}")
            own = [c for _, c in inspect.getmembers(module, inspect.isclass) if c.__module__ == module.__name__]
            if any(issubclass(c, (BaseHook, BaseOperator, BaseTrigger)) for c in own):
                found.add(module.__name__)
    bases = {"crm_provider.operators.base", "crm_provider.operators.load_base", "crm_provider.sensors.base"}
    bases.add("crm_provider.operators.load_kinds")
    assert found - bases == LISTED


def operators() -> Iterator[type]:
    """All public operators and sensors."""
    for module in sorted(LISTED):
        for _, found in inspect.getmembers(importlib.import_module(module), inspect.isclass):
            public = not found.__name__.startswith("_")
            if issubclass(found, BaseOperator) and found.__module__ == module and public:
                yield found


@pytest.mark.parametrize("operator", operators(), ids=lambda operator: operator.__name__)
def test_each_operator_has_a_policy(operator: Any) -> None:
    assert issubclass(operator, (CrmOperator, CrmSensor))
    assert operator.policy_name == operator.__name__
    kinds = {CrmSensor: Work.SENSOR, CrmLoadOperator: Work.LOAD}
    assert operator.work is next((work for base, work in kinds.items() if issubclass(operator, base)), Work.TASK)
    assert OPERATORS[operator.__name__] is operator.work
    assert "crm_conn_id" in operator.template_fields


def test_each_policy_belongs_to_an_operator() -> None:
    names = {operator.__name__ for operator in operators()}
    assert {name.partition("(")[0] for name in [*OPERATORS, *PRESETS]} == names
    assert set(PRESETS) <= set(OPERATORS)
