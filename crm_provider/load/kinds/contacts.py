"""Contacts as the records of a load."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crm_provider.load.kinds.kind import Kind
from crm_provider.load.mapping.mapper import Mapper
from crm_provider.load.options import ContactOptions

if TYPE_CHECKING:
    from crm_provider.load.kinds.remote import RemoteRecords, TrySetup


def _remote(setup: TrySetup) -> RemoteRecords:
    from crm_provider.load.kinds.remote_contacts import RemoteContacts

    return RemoteContacts(setup)


CONTACTS = Kind(
    name="contacts",
    options=ContactOptions,
    arguments=("mode", "plan", "empty", "region", "lowercase_email", "list_ids", "resubscribe"),
    mapper=Mapper,
    mapper_options=("empty", "region", "lowercase_email"),
    remote=_remote,
)
