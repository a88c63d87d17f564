"""Ids that are the same in every sandbox, so that an example DAG or a test can use them.

>>> from crm_provider.sandbox import ids
>>> ids.stage_id("Sales", "Won") == ids.stage_id("Sales", "Won")
True
"""

from __future__ import annotations

import uuid

NAMESPACE = uuid.uuid5(uuid.NAMESPACE_DNS, "sandbox.test")
"""All ids of the sandbox are version 5 UUIDs in this namespace."""


def pipeline_id(name: str) -> str:
    """The id of a pipeline."""
    return _id("pipeline", name)


def stage_id(pipeline: str, name: str) -> str:
    """The id of a stage.

    :param pipeline: name of the pipeline
    """
    return _id("stage", f"{pipeline}/{name}")


def list_id(name: str) -> str:
    """The id of a segmentation list."""
    return _id("list", name)


def contact_id(email: str, birth: int = 1) -> str:
    """The id of a contact.

    :param birth: 1 for the first contact with this email, 2 for the one created after that was deleted, and so on
    """
    return _id("contact", email if birth == 1 else f"{email}#{birth}")


def deal_id(contact: str, birth: int = 1) -> str:
    """The id of a contact's deal.

    :param contact: id of the contact
    :param birth: 1 for the contact's first deal, 2 for the one created after that was deleted, and so on
    """
    return _id("deal", contact if birth == 1 else f"{contact}#{birth}")


def request_id(number: int) -> str:
    """The id of the n-th request since the start or the last reset."""
    return _id("request", str(number))


def _id(kind: str, name: str) -> str:
    return str(uuid.uuid5(NAMESPACE, f"{kind}:{name}"))
