"""The contract suite: each test calls a sandbox and, with ``make contract``, also a real account."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from contract_accounts import KEY, Account, from_environment, open_account, targets
from contract_facts import FACTS, Finding, table

from crm_provider.errors import CrmError

FINDINGS = pytest.StashKey[list[Finding]]()
LEFT = pytest.StashKey[list[str]]()

Record = Callable[..., None]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--contract", action="store_true", help=f"call the account of {KEY}, too, and print the findings")
    parser.addoption("--report", type=Path, help="write the findings to this file, as a Markdown table")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Check first that the account accepts the key and that the report can be written."""
    report = session.config.getoption("--report", default=None)
    if report and not report.parent.is_dir():
        raise pytest.UsageError(f"--report {report}: the folder {report.parent} does not exist")
    if "account" in asked(session.config):
        try:
            with from_environment(os.environ).client as client:
                client.ping()
        except CrmError as error:
            raise pytest.UsageError(f"the account cannot be called: {error}") from None


def asked(config: pytest.Config) -> list[str]:
    return targets(os.environ, wanted=config.getoption("--contract", default=False))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "account" in metafunc.fixturenames:
        metafunc.parametrize("account", asked(metafunc.config), indirect=True, scope="session")


@pytest.fixture(scope="session")
def account(request: pytest.FixtureRequest) -> Iterator[Account]:
    """The account under test. The records that tests create in it are deleted at the end."""
    with open_account(request.param) as opened:
        yield opened
        left = opened.clean_up()
        request.config.stash.setdefault(LEFT, []).extend(left)
        assert not left or opened.name == "account", left


@pytest.fixture
def record(request: pytest.FixtureRequest, account: Account) -> Iterator[Record]:
    """Records what an account responded: ``record("page numbers", "10 records", holds=True)``.

    The test fails at its end if a response contradicts an assumption of the provider.
    """
    broken = []

    def note(fact: str, saw: str, *, holds: bool | None = None) -> None:
        finding = Finding(fact=FACTS[fact].name, target=account.name, saw=saw, holds=holds)
        request.config.stash.setdefault(FINDINGS, []).append(finding)
        if holds is False:
            broken.append(f"{fact}: the provider assumes: {FACTS[fact].assumed}; the {account.name} responded: {saw}")

    yield note
    assert not broken, "\n".join(broken)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if not config.getoption("--contract", default=False):
        return
    names = asked(config)
    text = table(config.stash.get(FINDINGS, []), names)
    terminalreporter.section("findings about the API")
    terminalreporter.write_line(text)
    if "account" not in names:
        terminalreporter.write_line(f"{KEY} is not set: the tests called sandboxes only, no real account.")
    for line in config.stash.get(LEFT, []):
        terminalreporter.write_line(f"not deleted, please delete: {line}")
    if report := config.getoption("--report"):
        report.write_text(f"{text}\n", encoding="utf-8")
