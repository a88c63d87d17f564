"""Assertions about the records in the sandbox after a DAG run: stages of deals, and deleted contacts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from crm_provider.sandbox import Sandbox


def assert_deal_stages(sandbox: Sandbox, stages: Mapping[str, str | None]) -> None:
    """Assert the stages of deals.

    Example: one deal was moved, and another contact has no deal::

        assert_deal_stages(crm_sandbox, {"ada@example.com": "Won", "bob@example.com": None})

    :param stages: email of a contact -> name or id of the stage of its deal, None for a contact without a deal
    :raises AssertionError: names each contact whose deal is elsewhere
    """
    wrong = list(_elsewhere(sandbox, stages))
    if wrong:
        raise AssertionError("\n".join(["deals are not in the expected stages:", *wrong]))


def _elsewhere(sandbox: Sandbox, stages: Mapping[str, str | None]) -> Iterator[str]:
    for email, wanted in stages.items():
        contact = sandbox.store.contacts.get(email)
        if contact is None:
            yield f"  {email}: the CRM has no such contact"
            continue
        deal = sandbox.store.deal_of(contact.id)
        names = (None,) if deal is None else _names(sandbox, deal.pipeline_id, deal.stage_id)
        if wanted not in names:
            yield f"  {email}: {names[0] or 'no deal'}, expected {wanted or 'no deal'}"


def _names(sandbox: Sandbox, pipeline_id: str, stage_id: str) -> tuple[str | None, ...]:
    """The name and the id of a stage."""
    stages = sandbox.store.pipelines[pipeline_id].stages
    return next(stage.name for stage in stages if stage.id == stage_id), stage_id


def assert_contacts_deleted(sandbox: Sandbox, emails: Sequence[str], *, left: int | None = None) -> None:
    """Assert that only these contacts were deleted, in every spelling of their addresses.

    :param emails: their addresses
    :param left: number of contacts that must remain; None for any number
    :raises AssertionError: names the remaining contacts, or their number
    """
    from crm_provider.values.addresses import person_key  # pytest loads this plugin before coverage begins

    people = {person_key(email) for email in emails}
    there = [email for email in sandbox.store.contacts if person_key(email) in people]
    if there:
        raise AssertionError(f"these contacts should have been deleted: {', '.join(there)}")
    count = len(sandbox.store.contacts)
    if left is not None and count != left:
        raise AssertionError(f"contacts in the CRM: {count}, expected {left}")
