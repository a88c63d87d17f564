"""The API's routes, and how a path as it came over the wire finds its route."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from urllib.parse import unquote

from crm_provider.sandbox import operations as op
from crm_provider.sandbox.store import Store

BASE_PATH = "/v2"
"""Everything of the API is below it; without it the gateway knows no route."""


class Body(Enum):
    """Whether a route reads a body."""

    NONE = "none"
    OPTIONAL = "optional"
    REQUIRED = "required"


@dataclass(frozen=True, kw_only=True)
class Route:
    """One call of the API.

    :param blank: which of INVALID_PARAMS' texts is answered if a placeholder of the path is blank
    :param keyless: the path itself is the secret, no key is asked for
    """

    method: str
    template: str
    operation: Callable[[Store, op.Request], op.Success]
    body: Body = Body.NONE
    blank: str = "CONTACT_EMAIL_IS_NECESSARY"
    keyless: bool = False

    @property
    def name(self) -> str:
        """Method and template, for example ``GET /contacts/{email}``."""
        return f"{self.method} {self.template}"

    def match(self, segments: list[str]) -> dict[str, str] | None:
        """The placeholders' values if these segments of a path are this route's, else None."""
        own = self.template.split("/")[1:]
        if len(own) != len(segments):
            return None
        pairs = list(zip(own, segments, strict=True))
        if any(mine != theirs for mine, theirs in pairs if not _is_placeholder(mine)):
            return None
        return {mine[1:-1]: unquote(theirs) for mine, theirs in pairs if _is_placeholder(mine)}


_DEAL = "DEAL_ID_IS_NECESSARY"
_WEBHOOK = "/webhook/{webhookId}/c/{channelUid}/w/{workflowId}"

ROUTES = (
    Route(method="POST", template="/contacts", operation=op.create_contact, body=Body.REQUIRED),
    Route(method="GET", template="/contacts", operation=op.list_contacts),
    Route(method="GET", template="/contacts/{email}", operation=op.get_contact),
    Route(method="PUT", template="/contacts/{email}", operation=op.update_contact, body=Body.REQUIRED),
    Route(method="DELETE", template="/contacts/{email}", operation=op.delete_contact),
    Route(method="POST", template="/deals", operation=op.create_deal, body=Body.REQUIRED),
    Route(method="GET", template="/deals", operation=op.list_deals),
    Route(method="GET", template="/deals/{dealId}", operation=op.get_deal, blank=_DEAL),
    Route(method="PUT", template="/deals/{dealId}", operation=op.update_deal, body=Body.REQUIRED, blank=_DEAL),
    Route(method="DELETE", template="/deals/{dealId}", operation=op.delete_deal, blank=_DEAL),
    Route(method="GET", template="/segments", operation=op.list_segments),
    Route(method="POST", template="/segments/add-contact/{email}", operation=op.add_to_segments, body=Body.REQUIRED),
    Route(
        method="POST",
        template="/email-verification/{email}",
        operation=op.verify_email,
        body=Body.OPTIONAL,
        blank="EMAIL_IS_NECESSARY",
    ),
    Route(method="POST", template=_WEBHOOK, operation=op.start_automation, body=Body.REQUIRED, keyless=True),
)


def find_route(method: str, raw_path: str) -> tuple[Route, Mapping[str, str]] | None:
    """The route of a call and the decoded values in its path; None if the gateway knows no such route.

    The path is cut into segments first and decoded after that, once: so an encoded slash stays part of an email.

    :param raw_path: the path as it came over the wire, still percent-encoded, with ``/v2``
    """
    prefix, _, rest = raw_path.partition(f"{BASE_PATH}/")
    if prefix or not rest:
        return None
    segments = rest.split("/")
    for route in ROUTES:
        if route.method == method and (params := route.match(segments)) is not None:
            return route, params
    return None


def decoded_path(raw_path: str) -> str:
    """The path below ``/v2`` for people and patterns, decoded once."""
    return unquote(raw_path.removeprefix(BASE_PATH))


def _is_placeholder(segment: str) -> bool:
    return segment.startswith("{")
