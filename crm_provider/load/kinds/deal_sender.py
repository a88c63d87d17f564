"""Sends one deal to the CRM: the calls depend on what is known of the deal.

Only differences are written. If a deal may have been created before (by a creation whose response was lost, or by a
killed try), it is looked for before another one is created.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import datetime
from typing import Any

from crm_provider import errors as e
from crm_provider.client.client import CrmClient
from crm_provider.client.deals import is_own_deal, shown_values, unknown_creator
from crm_provider.load.kinds.deal_cache import DealCache, RemoteDeal
from crm_provider.load.mapping.deal_mapper import Deal
from crm_provider.load.rows import EarlierCreation, Outcome
from crm_provider.load.workers import InFlightRow, SentRow

ELSEWHERE = "The deal is in none of only_from_stages: it was not changed."


class DealSender:
    """Sends rows; threads may share it.

    :param cache: deals that were read
    :param names: attributes that the load writes
    :param contact_id: the id of the contact with an address; raises ``CONTACT_NOT_FOUND``
    :param finds: whether a deal is looked for by its contact and pipeline before it is created
    :param given: contact and pipeline of the deals that other rows give to a contact, in lower case
    :param refuses: whether the deals read so far may show that a contact cannot have another deal
    :param stages: ids of the stages, in lower case, that a deal may leave; empty for all
    :param began: when the load began, by the CRM's clock
    """

    def __init__(
        self,
        client: CrmClient,
        cache: DealCache,
        *,
        names: frozenset[str],
        contact_id: Callable[[str], str],
        finds: bool,
        given: Collection[tuple[str, str]] = (),
        refuses: bool = False,
        stages: frozenset[str] = frozenset(),
        began: datetime | None = None,
    ) -> None:
        self._client, self._cache, self._names = client, cache, names
        self._contact_id, self._finds, self._refuses = contact_id, finds, refuses
        self._stages, self._began, self._given = stages, began, given

    def send(self, in_flight: InFlightRow, deal: Deal) -> SentRow:
        """Send one row.

        :raises CrmError: the error that decides about the row
        """
        contact_id = deal.contact_id
        if contact_id is None and deal.contact_email is not None:
            contact_id = self._contact_id(deal.contact_email)
        if deal.deal_id is not None:
            return self._change(deal.deal_id, deal, contact_id, self._cache.get(deal.deal_id))
        if contact_id is None or deal.pipeline_id is None or deal.stage_id is None:
            raise e.CrmInvalidValueError("a new deal needs a contact, a pipeline and a stage")
        made = in_flight.made
        if self._finds and (found := self._found(contact_id, deal.pipeline_id)) is not None:
            is_own = made is not None and not made.earlier_load and _is_new(found, made)
            if is_own and not found.changes(deal, contact_id):
                return SentRow(Outcome.CREATED, called=False, ids=_ids(found.id, contact_id))
            return self._change(found.id, deal, contact_id, found)
        if made is not None:
            own = self._own(deal, self._candidates(in_flight, contact_id, deal.pipeline_id), made)
            if own is not None:
                outcome = Outcome.UNCHANGED if made.earlier_load else Outcome.CREATED
                return SentRow(outcome, called=False, ids=_ids(own.id, contact_id))
        if (contact_id.lower(), deal.pipeline_id.lower()) in self._given:
            raise e.CrmInvalidValueError(
                "another row gives the contact a deal in this pipeline; name the deal by its deal_id"
            )
        if self._refuses and self._cache.of(contact_id, deal.pipeline_id):
            raise e.CrmContactAssociatedWithADealError(
                "Contact already associated with a deal.", method="POST", path="/deals"
            )
        return self._create(in_flight, deal, contact_id, deal.pipeline_id, deal.stage_id)

    # -- existing deals --------------------------------------------------------------------------------------

    def _change(self, deal_id: str, deal: Deal, contact_id: str | None, remote: RemoteDeal | None) -> SentRow:
        ids = _ids(deal_id, contact_id)
        changes = _all(deal, contact_id) if remote is None else remote.changes(deal, contact_id)
        is_unknown = remote is None and not changes  # with nothing to write, only reading shows that the deal exists
        if is_unknown or (changes and self._stages and (remote is None or self._may_leave(remote, deal))):
            remote = RemoteDeal.of(self._client.get_deal(deal_id), self._names)  # as it is now
            changes = remote.changes(deal, contact_id)
        if not changes:
            return SentRow(Outcome.UNCHANGED, called=False, ids=ids)
        if self._stages and remote is not None and not self._may_leave(remote, deal):
            return SentRow(Outcome.SKIPPED, called=False, is_whole=False, ids=ids, message=ELSEWHERE)
        self._client.update_deal(deal_id, **changes)
        return SentRow(Outcome.UPDATED, ids=ids)

    def _may_leave(self, remote: RemoteDeal, deal: Deal) -> bool:
        """Whether a deal may be changed: it is in one of the stages, or already in the row's stage."""
        if remote.stage_id is None:
            raise e.CrmInvalidValueError(
                "the CRM does not show the stage of the deal, which only_from_stages needs; give it one in the CRM"
            )
        return remote.stage_id in self._stages or remote.stage_id == (deal.stage_id or "").lower()

    def _found(self, contact_id: str, pipeline_id: str) -> RemoteDeal | None:
        """The deal of a contact in a pipeline, None if there is none."""
        found = self._cache.of(contact_id, pipeline_id)
        if len(found) > 1:
            raise e.CrmInvalidValueError(
                f"the contact has {len(found)} deals in this pipeline; name the deal by its deal_id"
            )
        return found[0] if found else None

    # -- new deals -------------------------------------------------------------------------------------------

    def _create(self, in_flight: InFlightRow, deal: Deal, contact_id: str, pipeline_id: str, stage_id: str) -> SentRow:
        try:
            made = self._client.create_deal(
                contact_id=contact_id, pipeline_id=pipeline_id, stage_id=stage_id, attributes=deal.attributes or None
            )
        except e.CrmError as error:
            if not error.outcome_known and in_flight.made is None:
                in_flight.made = EarlierCreation(self._began)
            raise
        record = {"id": made["id"], "contactId": contact_id, "pipelineId": pipeline_id, "stageId": stage_id}
        self._cache.put(RemoteDeal.of({**record, "attributes": deal.attributes}, self._names))
        return SentRow(Outcome.CREATED, ids=_ids(made["id"], contact_id))

    def _candidates(self, in_flight: InFlightRow, contact_id: str, pipeline_id: str) -> list[RemoteDeal]:
        """Deals of the contact in the pipeline, read after the attempt that may have created one."""
        if in_flight.sends > 1:  # all deals were read before it
            for record in self._client.list_deals(carefully=True):
                self._cache.put(RemoteDeal.of(record, self._names))
        return self._cache.of(contact_id, pipeline_id)

    @staticmethod
    def _own(deal: Deal, candidates: list[RemoteDeal], made: EarlierCreation) -> RemoteDeal | None:
        """The deal that an earlier attempt created, None if it created none.

        :raises CrmContactAssociatedWithADealError: if there is such a deal, and nothing shows who created it
        """
        is_undecided = False
        for remote in candidates:
            is_own = is_own_deal(
                is_new=_is_new(remote, made),
                has_moved=remote.stage_id not in (None, (deal.stage_id or "").lower()),
                shown=shown_values(remote.attributes, deal.attributes),
            )
            if is_own:
                return remote
            is_undecided |= is_own is None
        if is_undecided:
            raise unknown_creator()
        return None


def _ids(deal_id: object, contact_id: str | None) -> dict[str, object]:
    return {"deal_id": deal_id, **({} if contact_id is None else {"contact_id": contact_id})}


def _is_new(remote: RemoteDeal, made: EarlierCreation) -> bool | None:
    """Whether a deal was created after the first attempt; None if that is not known."""
    return None if remote.created_at is None or made.since is None else remote.created_at >= made.since


def _all(deal: Deal, contact_id: str | None) -> dict[str, Any]:
    parts = {"stage_id": deal.stage_id, "contact_id": contact_id, "attributes": deal.attributes or None}
    return {name: value for name, value in parts.items() if value is not None}
