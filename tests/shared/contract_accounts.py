"""An account for the contract suite: a sandbox, or the account of ``CRM_API_KEY``. Its calls are counted."""

from __future__ import annotations

import json
import os
import secrets
import uuid
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

from crm_provider.client.client import CrmClient
from crm_provider.client.http_session import HttpSession
from crm_provider.client.request import Call
from crm_provider.client.responses import CrmResponse
from crm_provider.client.settings import DEFAULT_BASE_URL, Settings
from crm_provider.client.transport import Transport
from crm_provider.errors import CrmError, CrmNotFoundError
from crm_provider.rate_limit.limiter import RateLimiter, limiter_for
from crm_provider.sandbox import Sandbox, ids

MOST_CALLS = 200
KEPT_FOR_CLEANING = 30
"""Calls in reserve: deleting each new contact at the end takes one."""

KEY, BASE_URL, DOMAIN = "CRM_API_KEY", "CRM_BASE_URL", "CRM_CONTRACT_DOMAIN"
LIST, PIPELINE, STAGES = "CRM_CONTRACT_LIST", "CRM_CONTRACT_PIPELINE", "CRM_CONTRACT_STAGES"
VERIFY = "CRM_CONTRACT_VERIFY"


class OutOfCalls(Exception):
    """The limit of calls is reached."""


class Counted:
    """A rate limiter with a limited number of calls.

    :param left: remaining calls
    """

    def __init__(self, limiter: RateLimiter, left: int) -> None:
        self._limiter, self.left, self.made = limiter, left, 0

    def acquire(self, max_wait: float) -> float:
        if self.left <= 0:
            raise OutOfCalls(f"{self.made} calls were made; the others are reserved for the clean-up")
        waited = self._limiter.acquire(max_wait)
        self.left -= 1
        self.made += 1
        return waited

    def pause(self, seconds: float) -> None:
        self._limiter.pause(seconds)


@dataclass(frozen=True, kw_only=True)
class Known:
    """Settings of the user that no call of the API returns; empty if unknown.

    :param domain: domain of the new addresses
    :param list_id: a segmentation list to add contacts to
    :param stage_ids: two stages of the pipeline
    :param verify: whether to request an email verification, which may cost credits
    """

    domain: str = "example.com"
    list_id: str = ""
    pipeline_id: str = ""
    stage_ids: tuple[str, ...] = ()
    verify: bool = False


class Account:
    """One account.

    :param name: ``sandbox`` or ``account``, in the table
    """

    def __init__(self, name: str, settings: Settings, known: Known) -> None:
        self.name, self.settings, self.known = name, settings, known
        self.calls = Counted(limiter_for(settings), MOST_CALLS - KEPT_FOR_CLEANING)
        self.client = CrmClient(settings, transport=Transport(settings, limiter=self.calls))
        self._emails: list[str] = []
        self._deals: list[str] = []

    def new_email(self, tag: str = "") -> str:
        """An unused address. Its contact is deleted at the end."""
        email = f"crm-contract-{secrets.token_hex(6)}{tag}@{self.known.domain}"
        self._emails.append(email)
        return email

    def note_deal(self, deal_id: str) -> None:
        """Delete this deal at the end."""
        self._deals.append(deal_id)

    def ask(
        self,
        method: str,
        route: str,
        *,
        body: Any = None,
        query: Mapping[str, str | int] | None = None,
        authenticated: bool = True,
        settings: Settings | None = None,
        **parts: str,
    ) -> CrmResponse:
        """Send one request without retries and return any response.

        :param settings: in place of the account's, for another key or developer mode
        """
        call = Call(
            method=method, route=route, path_params=parts, query=query or {}, body=body, authenticated=authenticated
        )
        with closing(HttpSession(settings or self.settings, user_agent="airflow-provider-crm contract")) as session:
            self.calls.acquire(60.0)
            return session.round_trip(call)

    def clean_up(self) -> list[str]:
        """Delete the new records: deals first, because a deal may prevent the deletion of its contact.

        :return: records that could not be deleted, with the reason
        """
        self.calls.left += KEPT_FOR_CLEANING
        left = []
        for deal_id in self._deals:
            call = {"path_params": {"deal_id": deal_id}}
            if (
                why := self._gone(lambda call=call: self.client.request("DELETE", "/deals/{deal_id}", **call))
            ) is not None:
                left.append(f"deal {deal_id}: {why}")
        for email in self._emails:
            if (why := self._gone(lambda email=email: self.client.delete_contact(email))) is not None:
                left.append(f"contact {email}: {why}")
        self.client.close()
        return left

    @staticmethod
    def _gone(delete: Any) -> str | None:
        try:
            delete()
        except CrmNotFoundError:
            return None
        except (CrmError, OutOfCalls) as error:
            return str(error)
        return None


def content(response: CrmResponse) -> Any:
    """The JSON of a response; None if the body is not JSON."""
    try:
        return json.loads(response.body)
    except ValueError:
        return None


def unwrapped(response: CrmResponse) -> Any:
    """The JSON of a response without the envelope."""
    parsed = content(response)
    return parsed["data"] if isinstance(parsed, dict) and isinstance(parsed.get("data"), dict) else parsed


def shape(value: Any) -> str:
    """The field names of a response without values: ``{message, data: {id, email}}``."""
    if isinstance(value, dict):
        inner = [f"{name}: {shape(item)}" if isinstance(item, (dict, list)) else name for name, item in value.items()]
        return f"{{{', '.join(inner)}}}"
    if isinstance(value, list):
        return f"[{shape(value[0]) if value else ''}]"
    return "nothing" if value is None else type(value).__name__


def a_uuid() -> str:
    """An id that no record has."""
    return str(uuid.uuid4())


# -- the accounts


def targets(environment: Mapping[str, str], *, wanted: bool) -> list[str]:
    """Names of the accounts to test. A key in the environment alone does not select a real account.

    :param wanted: whether the command asked for the real account
    """
    return ["sandbox", "other sandbox", *(["account"] if wanted and environment.get(KEY) else [])]


@contextmanager
def open_account(name: str) -> Iterator[Account]:
    """Open the account of this name."""
    if name == "account":
        yield from_environment(os.environ)
        return
    forms: dict[str, Any] = {"envelope": "v2", "success": "flat"} if name == "other sandbox" else {}
    with Sandbox(seed="demo", rate=None, **forms) as sandbox:
        settings = Settings(api_key=sandbox.api_key, base_url=sandbox.url, rate_store="off")
        stages = tuple(ids.stage_id("Sales", stage) for stage in ("New", "Won"))
        known = Known(
            list_id=ids.list_id("Newsletter"), pipeline_id=ids.pipeline_id("Sales"), stage_ids=stages, verify=True
        )
        yield Account(name, settings, known)


def from_environment(environment: Mapping[str, str]) -> Account:
    """The account of ``CRM_API_KEY``."""
    settings = Settings(api_key=environment[KEY], base_url=environment.get(BASE_URL) or DEFAULT_BASE_URL)
    known = Known(
        domain=environment.get(DOMAIN) or "example.com",
        list_id=environment.get(LIST, ""),
        pipeline_id=environment.get(PIPELINE, ""),
        stage_ids=tuple(environment.get(STAGES, "").replace(",", " ").split()),
        verify=environment.get(VERIFY) == "1",
    )
    return Account("account", settings, known)
