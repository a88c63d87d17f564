"""An account that the contract is tried out with: a sandbox, or the one of ``CRM_API_KEY``; calls are counted."""

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
"""So many of them: each address that is made is deleted at the end with one."""

KEY, BASE_URL, DOMAIN = "CRM_API_KEY", "CRM_BASE_URL", "CRM_CONTRACT_DOMAIN"
LIST, PIPELINE, STAGES = "CRM_CONTRACT_LIST", "CRM_CONTRACT_PIPELINE", "CRM_CONTRACT_STAGES"
VERIFY = "CRM_CONTRACT_VERIFY"


class OutOfCalls(Exception):
    """The account has been called as often as it may be."""


class Counted:
    """A rate budget that comes to an end.

    :param left: calls that may still be made
    """

    def __init__(self, limiter: RateLimiter, left: int) -> None:
        self._limiter, self.left, self.made = limiter, left, 0

    def acquire(self, max_wait: float) -> float:
        if self.left <= 0:
            raise OutOfCalls(f"{self.made} calls were made; the rest is kept for cleaning up")
        waited = self._limiter.acquire(max_wait)
        self.left -= 1
        self.made += 1
        return waited

    def pause(self, seconds: float) -> None:
        self._limiter.pause(seconds)


@dataclass(frozen=True, kw_only=True)
class Known:
    """What no call of the API tells, and the user may have told; empty where not.

    :param domain: of the addresses that are made
    :param list_id: a segmentation list that contacts may be added to
    :param stage_ids: two stages of the pipeline
    :param verify: whether an email verification may be asked for: it may cost credits
    """

    domain: str = "example.com"
    list_id: str = ""
    pipeline_id: str = ""
    stage_ids: tuple[str, ...] = ()
    verify: bool = False


class Account:
    """One account.

    :param name: ``sandbox`` or ``account``, as the table shows it
    """

    def __init__(self, name: str, settings: Settings, known: Known) -> None:
        self.name, self.settings, self.known = name, settings, known
        self.calls = Counted(limiter_for(settings), MOST_CALLS - KEPT_FOR_CLEANING)
        self.client = CrmClient(settings, transport=Transport(settings, limiter=self.calls))
        self._emails: list[str] = []
        self._deals: list[str] = []

    def new_email(self, tag: str = "") -> str:
        """An address of nobody; its contact is deleted at the end."""
        email = f"crm-contract-{secrets.token_hex(6)}{tag}@{self.known.domain}"
        self._emails.append(email)
        return email

    def note_deal(self, deal_id: str) -> None:
        """A deal that is to be deleted at the end."""
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
        """One call as it is, without a repetition: the response, whatever it is.

        :param settings: others than the account's: with another key, or in developer mode
        """
        call = Call(
            method=method, route=route, path_params=parts, query=query or {}, body=body, authenticated=authenticated
        )
        with closing(HttpSession(settings or self.settings, user_agent="airflow-provider-crm contract")) as session:
            self.calls.acquire(60.0)
            return session.round_trip(call)

    def clean_up(self) -> list[str]:
        """Delete what was made; deals first, for a contact may be kept by its deal.

        :return: what could not be deleted, and why
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


def content(answer: CrmResponse) -> Any:
    """The response's JSON; None if it is none."""
    try:
        return json.loads(answer.body)
    except ValueError:
        return None


def unwrapped(answer: CrmResponse) -> Any:
    """The same without the envelope."""
    parsed = content(answer)
    return parsed["data"] if isinstance(parsed, dict) and isinstance(parsed.get("data"), dict) else parsed


def shape(value: Any) -> str:
    """The names in a response, without a value: ``{message, data: {id, email}}``."""
    if isinstance(value, dict):
        inner = [f"{name}: {shape(item)}" if isinstance(item, (dict, list)) else name for name, item in value.items()]
        return f"{{{', '.join(inner)}}}"
    if isinstance(value, list):
        return f"[{shape(value[0]) if value else ''}]"
    return "nothing" if value is None else type(value).__name__


def a_uuid() -> str:
    """An id of nothing."""
    return str(uuid.uuid4())


# -- which there are


def targets(environment: Mapping[str, str], *, wanted: bool) -> list[str]:
    """Whom to ask. A key in the environment alone is no reason to call a real account.

    :param wanted: whether the suite was started to ask one
    """
    return ["sandbox", "other sandbox", *(["account"] if wanted and environment.get(KEY) else [])]


@contextmanager
def open_account(name: str) -> Iterator[Account]:
    """The account of a target's name."""
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
