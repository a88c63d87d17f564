"""Contacts as the records of a load."""

from __future__ import annotations

from crm_provider.load.kinds.kind import Kind
from crm_provider.load.mapping.mapper import Mapper
from crm_provider.load.options import ContactOptions

CONTACTS = Kind(
    name="contacts",
    options=ContactOptions,
    arguments=("mode", "plan", "empty", "region", "lowercase_email", "list_ids", "resubscribe"),
    mapper=Mapper,
    mapper_options=("empty", "region", "lowercase_email"),
    remote_class="crm_provider.load.kinds.remote_contacts:RemoteContacts",
)
