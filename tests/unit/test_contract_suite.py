"""The contract suite itself: it never calls a real account without permission, and stays within its call limit."""

from __future__ import annotations

from unittest.mock import Mock

import pytest
from contract_accounts import (
    KEPT_FOR_CLEANING,
    MOST_CALLS,
    Counted,
    OutOfCalls,
    from_environment,
    open_account,
    shape,
    targets,
)
from contract_facts import FACTS, NOT_ASKED, Finding, table

from crm_provider.client.settings import DEFAULT_BASE_URL
from crm_provider.rate_limit.limiter import UnlimitedRate


def test_calls_are_limited() -> None:
    calls = Counted(UnlimitedRate(), 2)
    assert [calls.acquire(1.0), calls.acquire(1.0)] == [0.0, 0.0]
    with pytest.raises(OutOfCalls, match="2 calls were made"):
        calls.acquire(1.0)


def test_some_calls_are_reserved_for_deletions() -> None:
    with open_account("sandbox") as account:
        account.client.create_contact(account.new_email())
        account.calls.left = 0
        with pytest.raises(OutOfCalls):
            account.client.ping()
        assert account.clean_up() == []
        assert account.calls.made + account.calls.left <= MOST_CALLS
        assert account.calls.left == KEPT_FOR_CLEANING - 1


def test_undeletable_records_are_reported() -> None:
    with open_account("sandbox") as account:
        email = account.new_email()
        account.client.delete_contact = Mock(side_effect=OutOfCalls("no more"))  # type: ignore[method-assign]
        assert account.clean_up() == [f"contact {email}: no more"]


def test_account_is_paced_like_any_task() -> None:
    account = from_environment({"CRM_API_KEY": "a-key"})
    assert account.settings.base_url == DEFAULT_BASE_URL
    assert (account.settings.requests_per_second, account.settings.burst) == (5.0, 2)
    assert account.settings.rate_store is None, "the budget shared by the tasks of this host"
    assert "a-key" not in repr(account.settings)


@pytest.mark.parametrize(
    ("key", "wanted", "asked"), [("a-key", True, True), ("a-key", False, False), ("", True, False), ("", False, False)]
)
def test_key_alone_starts_no_contract_test(key: str, wanted: bool, asked: bool) -> None:
    """``make test`` on a machine with the variable set makes no calls."""
    assert ("account" in targets({"CRM_API_KEY": key}, wanted=wanted)) == asked


def test_table_has_a_line_for_every_fact() -> None:
    found = Finding(fact="deleting twice", target="sandbox", saw="404 | gone", holds=False)
    lines = table([found], ["sandbox"]).splitlines()
    assert len(lines) == 2 + len(FACTS) + len(NOT_ASKED)
    assert "| deleting twice | U | 404 CONTACT_NOT_FOUND | **breaks**: 404 \\| gone |" in lines
    assert "| `status` values | U | nothing | not shown |" in lines


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"email": "ada@example.com", "data": {"id": 1}}, "{email, data: {id}}"),
        ([{"id": "x"}, {"id": "y"}], "[{id}]"),
        ("ada@example.com", "str"),
        (None, "nothing"),
    ],
)
def test_no_value_is_shown(value: object, text: str) -> None:
    assert shape(value) == text
