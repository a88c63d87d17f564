"""Deals as the records of a load."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, get_args

from crm_provider.client import validation
from crm_provider.errors import CrmInvalidValueError
from crm_provider.load.kinds.kind import Kind
from crm_provider.load.mapping.deal_mapper import DealMapper, DealMode
from crm_provider.load.options import LoadOptions, ids_of
from crm_provider.load.rows import NEVER, WRITTEN, Outcome, SourceError


@dataclass(frozen=True, kw_only=True)
class DealOptions(LoadOptions):
    """How to load deals.

    :param mode: ``move`` (a deal to a stage), ``update``, ``create``, or ``upsert`` (found by its id, or by its contact
        and pipeline)
    :param only_from_stages: a deal that is in none of these stages, and not in the row's own, is left alone
    """

    records: ClassVar[str] = "deals"
    shared: ClassVar[str] = "deal"
    modes: ClassVar[tuple[str, ...]] = get_args(DealMode)
    outcomes: ClassVar[tuple[Outcome, ...]] = WRITTEN
    meanings: ClassVar[Mapping[Outcome, str]] = {
        Outcome.SUPPRESSED: NEVER,
        Outcome.UPDATED: "were there, and were moved or changed",
        Outcome.SKIPPED: "left out: `on_error` said so, another row is for the same deal, or the deal was in none of "
        "`only_from_stages`",
    }
    plan_words: ClassVar[Mapping[str, str]] = {
        "compare": "Read all deals of the CRM first, then send only the rows that differ.",
        "move": "Move each deal to the stage of its row.",
        "update": "Update each deal; rows without a deal in the CRM are rejected.",
        "create": "Create each deal; contacts that have one keep it as it is.",
        "upsert": "Update each deal by its id.",
    }
    naive: ClassVar[str] = "one write for each row"

    mode: str = "upsert"
    only_from_stages: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "only_from_stages", _stages(self.only_from_stages))
        super().__post_init__()
        if self.only_from_stages and self.mode == "create":
            raise SourceError("only_from_stages is for deals that are there; mode='create' changes none")

    def check(self) -> None:
        self.stages()

    def stages(self) -> frozenset[str]:
        """The ids of the stages that a deal may leave, in lower case; checked late, for they may come from a template.

        :raises SourceError: if one is not a UUID
        """
        try:
            ids = validation.uuids(self.only_from_stages, "only_from_stages") if self.only_from_stages else ()
        except CrmInvalidValueError as wrong:
            raise SourceError(wrong.message) from None
        return frozenset(id_.lower() for id_ in ids)

    @property
    def decisive(self) -> list[Any]:
        return [*super().decisive, sorted(self.stages())]

    @property
    def must_know_own(self) -> bool:
        return self.mode == "create"

    @property
    def effect(self) -> dict[str, Any]:
        return {"mode": self.mode, "only_from_stages": sorted(self.stages())}


def _stages(given: Any) -> tuple[Any, ...]:
    """The stages as a tuple.

    :raises SourceError: if a template or another task gave an empty list: without stages, no deal would be left alone
    """
    stages = ids_of(given)
    if not stages and given not in (None, ()):
        raise SourceError("only_from_stages is empty; give at least one stage, or leave it out to move every deal")
    return stages


DEALS = Kind(
    name="deals",
    options=DealOptions,
    arguments=("mode", "plan", "empty", "only_from_stages"),
    mapper=DealMapper,
    mapper_options=("mode", "empty"),
    remote_class="crm_provider.load.kinds.remote_deals:RemoteDeals",
)
