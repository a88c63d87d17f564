"""How a sandbox is set up."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypedDict, get_args

from crm_provider.sandbox.choices import not_one_of

Envelope = Literal["v1", "v2", "v2-text", "gateway"]
"""How errors are written; v1 is documented, nobody knows v2's form for sure, so a client must cope with each."""

SuccessShape = Literal["wrapped", "flat"]
"""Whether the data of a success is under ``data`` or at the top level: the vendor's pages show both."""

DEFAULT_API_KEY = "sandbox-key"

LARGEST = 1_000_000_000
"""Of a burst or a journal: more makes no difference, and still larger numbers fit nowhere."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All that can be chosen about a sandbox.

    :param seed: ``empty``, ``demo``, ``contacts:N``, the path of a JSON file, or a document (see ``seeds``)
    :param rate: calls per second that the token bucket gives back; None switches the limit off
    :param burst: capacity of the token bucket
    :param envelope: how errors are written; the gateway's own errors always have the gateway's form
    :param success: ``wrapped`` is ``{"message", "data"}``, ``flat`` has the data at the top level
    :param api_key: the one key that is accepted; None refuses every key
    :param membership_delay: seconds until an added list shows on the contact
    :param magic: whether the addresses at ``sandbox.test`` misbehave
    :param journal_size: how many calls the journal keeps
    """

    seed: str | Mapping[str, Any] = "demo"
    rate: float | None = 5.0
    burst: int = 2
    envelope: Envelope = "v1"
    success: SuccessShape = "wrapped"
    api_key: str | None = DEFAULT_API_KEY
    membership_delay: float = 0.0
    magic: bool = True
    journal_size: int = 10_000

    # read by pydantic at the admin API: a misspelt name is refused instead of ignored
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        if self.envelope not in get_args(Envelope):
            raise ValueError(not_one_of("envelope", self.envelope, get_args(Envelope)))
        if self.success not in get_args(SuccessShape):
            raise ValueError(not_one_of("success", self.success, get_args(SuccessShape)))
        if self.rate is not None and not 0 < self.rate < math.inf:
            raise ValueError(f"rate must be above 0, or None for no limit; got {self.rate}")
        if self.burst < 1 or self.journal_size < 1:
            raise ValueError(f"burst and journal_size must be at least 1; got {self.burst} and {self.journal_size}")
        if self.burst > LARGEST or self.journal_size > LARGEST:
            raise ValueError(f"burst and journal_size must be at most {LARGEST}")
        if not 0 <= self.membership_delay < math.inf:
            raise ValueError(f"membership_delay must not be negative, and end; got {self.membership_delay}")
        if self.api_key is not None and not self.api_key.strip():
            raise ValueError("api_key must not be blank; None refuses every key")


class SettingsFields(TypedDict, total=False):
    """The fields of :class:`Settings` as keyword arguments."""

    seed: str | Mapping[str, Any]
    rate: float | None
    burst: int
    envelope: Envelope
    success: SuccessShape
    api_key: str | None
    membership_delay: float
    magic: bool
    journal_size: int
