"""SandboxSettings, names, ids, and time."""

from __future__ import annotations

import math
import subprocess
import sys
import uuid
from dataclasses import fields
from datetime import datetime, timedelta, timezone
from typing import Any, get_type_hints

import pytest

from crm_provider.sandbox import Fault, ManualClock, Sandbox, SandboxSettings, ids
from crm_provider.sandbox.settings import SandboxOptions, not_one_of, timestamp


def test_importing_sandbox_or_pytest_plugin_loads_no_web_framework_and_no_airflow() -> None:
    code = (
        "import sys, crm_provider.sandbox, crm_provider.testing;"
        "print([m for m in ('fastapi', 'starlette', 'uvicorn', 'pydantic', 'airflow', 'requests') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_keyword_arguments_are_the_fields_of_the_settings() -> None:
    own, keywords = get_type_hints(SandboxSettings), get_type_hints(SandboxOptions)
    assert keywords == {field.name: own[field.name] for field in fields(SandboxSettings)}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"envelope": "v11"}, "did you mean 'v1'"),
        ({"success": "flatt"}, "did you mean 'flat'"),
        ({"rate": 0}, "None for no limit"),
        ({"burst": 0}, "at least 1"),
        ({"journal_size": 0}, "at least 1"),
        ({"membership_delay": -1}, "not negative"),
        ({"api_key": " "}, "None rejects every key"),
        ({"seed": "demmo"}, "did you mean 'demo'"),
        ({"rate": math.nan}, "rate must be above 0"),
        ({"rate": math.inf}, "rate must be above 0"),
        ({"burst": 10**400}, "burst and journal_size must be at most"),
        ({"journal_size": 10**30}, "burst and journal_size must be at most"),
        ({"membership_delay": math.nan}, "membership_delay must be finite"),
        ({"membership_delay": math.inf}, "membership_delay must be finite"),
    ],
)
def test_invalid_settings_are_refused_with_a_reason(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sandbox(**wrong)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "example.com", "", "127.0.0.1.example.com"])
def test_sandbox_listens_on_loopback_only(host: str) -> None:
    with pytest.raises(ValueError, match=r"loopback only.*no password"):
        Sandbox(host=host)


@pytest.mark.parametrize(
    "host", ["", "*", "a b", "http://a", "a/b", "a:b", "a:999999", "user@a", "[::1", "\u0430.example"]
)
def test_allowed_host_is_a_name_with_an_optional_port(host: str) -> None:
    with pytest.raises(ValueError, match="not a host name"):
        Sandbox(allowed_hosts=[host])


def test_url_before_the_start_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="before it is started"):
        _ = Sandbox().url


def test_fault_is_given_as_a_rule_or_as_its_fields() -> None:
    with pytest.raises(TypeError, match="not both"):
        Sandbox().add_fault(Fault(effect="drop"), count=1)


def test_nearest_word_ignores_case() -> None:
    assert not_one_of("error", "deal_not_fond", ["CONTACT_NOT_FOUND", "DEAL_NOT_FOUND"]).endswith(
        "did you mean 'DEAL_NOT_FOUND'?"
    )
    assert "one of 'a', 'b'" in not_one_of("x", "quite different", ["a", "b"])


def test_ids_are_stable_unique_uuids() -> None:
    made = [
        ids.pipeline_id("Sales"),
        ids.stage_id("Sales", "New"),
        ids.stage_id("Partners", "New"),
        ids.list_id("Sales"),
        ids.contact_id("a@b.co"),
        ids.contact_id("a@b.co", 2),
        ids.deal_id(ids.contact_id("a@b.co")),
        ids.request_id(1),
    ]
    assert len(set(made)) == len(made)
    assert all(uuid.UUID(one).version == 5 for one in made)
    # an example DAG uses this id, so it must never change
    assert ids.pipeline_id("Sales") == "a17480f5-9e08-57d0-801d-d7187ee171a3"


def test_time_is_formatted_like_the_api() -> None:
    moment = datetime(2025, 12, 22, 20, 11, 43, 719_400, tzinfo=timezone(timedelta(hours=2)))
    assert timestamp(moment) == "2025-12-22T18:11:43.719Z"


def test_manual_clock_moves_only_forward() -> None:
    clock = ManualClock()
    before = clock.now()
    clock.advance(1.5)
    assert clock.monotonic() == 1.5
    assert clock.now() - before == timedelta(seconds=1.5)
    with pytest.raises(ValueError, match="does not go back"):
        clock.advance(-1)
