"""Calls about deals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from crm_provider import errors as e
from crm_provider import validate
from crm_provider.calls.base import Calls, Record, id_of, mapping_of
from crm_provider.transport import Call


class DealCalls(Calls):
    """Create, read, change, move and list deals."""

    def create_deal(
        self, *, contact_id: str, pipeline_id: str, stage_id: str, attributes: Mapping[str, Any] | None = None
    ) -> Record:
        """Create a deal; answers ``id``, ``contactId``, ``email``.

        If the answer is lost, the account's deals are read (ten with a call) before anything is sent again.

        :param attributes: ``pb_name``, ``pb_amount`` (text with the exact digits), ...
        :raises CrmContactAssociatedWithADealError: if the contact has a deal
        """
        body: Record = {
            "contactId": validate.uuid(contact_id, "contact_id"),
            "pipelineId": validate.uuid(pipeline_id, "pipeline_id"),
            "stageId": validate.uuid(stage_id, "stage_id"),
        }
        if attributes is not None:
            body["attributes"] = _deal_attributes(attributes)
        call = Call(method="POST", route="/deals", body=body, done_if=(e.CrmConflictError,))
        deal = mapping_of(
            self._transport.send(call, settle=lambda: self.find_deal(contact_id, pipeline_id, stage_id=stage_id)), call
        )
        id_of(deal.get("id"), call.shown, "POST")
        return deal

    def find_deal(
        self,
        contact_id: str,
        pipeline_id: str,
        *,
        stage_id: str | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> Record | None:
        """A deal of a contact in a pipeline, or None. The API cannot search: this reads the list of deals.

        :param stage_id: only a deal in this stage
        :param attributes: only a deal that shows no other values for these
        """
        ids = {
            "contactId": validate.uuid(contact_id, "contact_id"),
            "pipelineId": validate.uuid(pipeline_id, "pipeline_id"),
        }
        if stage_id is not None:
            ids["stageId"] = validate.uuid(stage_id, "stage_id")
        for deal in self.list_deals():
            shown = deal.get("attributes")
            same = _fits(deal, ids) and _fits(shown if isinstance(shown, dict) else {}, attributes or {})
            if same and deal.get("contactId") is not None:
                return deal
        return None

    def get_deal(self, deal_id: str) -> Record:
        """One deal: at least ``id``, ``contactId``, ``pipelineId``, ``stageId``, ``attributes`` (fields *inferred*).

        :raises CrmDealNotFoundError: if there is none
        """
        deal = self._record(Call(method="GET", route="/deals/{deal_id}", parts=_deal(deal_id)))
        id_of(deal.get("id"), "/deals/{deal_id}")
        return deal

    def update_deal(
        self,
        deal_id: str,
        *,
        contact_id: str | None = None,
        stage_id: str | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> Record:
        """Change a deal: at least one of the arguments. A deal cannot change its pipeline.

        :param attributes: ``pb_name``, ``pb_amount`` (text with the exact digits), ``pb_closingDate`` (date-time), ...
        :raises CrmDealNotFoundError: if there is no such deal
        """
        body: Record = {}
        if contact_id is not None:
            body["contactId"] = validate.uuid(contact_id, "contact_id")
        if stage_id is not None:
            body["stageId"] = validate.uuid(stage_id, "stage_id")
        if attributes is not None:
            body["attributes"] = _deal_attributes(attributes)
        if not body:
            raise e.CrmInvalidValueError("nothing to change; give contact_id, stage_id or attributes")
        return self._record(Call(method="PUT", route="/deals/{deal_id}", parts=_deal(deal_id), body=body, loose=True))

    def move_deal(self, deal_id: str, *, stage_id: str) -> Record:
        """Move a deal to another stage of its pipeline; answers ``id``.

        :raises CrmDealNotFoundError: if there is no such deal
        :raises CrmStageNotFoundError: if there is no such stage in its pipeline
        """
        return self.update_deal(deal_id, stage_id=validate.uuid(stage_id, "stage_id"))

    def delete_deal(self, deal_id: str) -> None:
        """Delete a deal (that it can be deleted is documented, the path is *inferred*).

        :raises CrmDealNotFoundError: if there is none
        """
        call = Call(
            method="DELETE", route="/deals/{deal_id}", parts=_deal(deal_id), done_if=(e.CrmNotFoundError,), loose=True
        )
        self._transport.send(call)

    def list_deals(self) -> Iterator[Record]:
        """All deals, each once, ten with a call (envelope *inferred*)."""
        return self._walk("/deals")


def _fits(record: Record, wanted: Mapping[str, Any]) -> bool:
    """Whether fields have these values; a listing that leaves a field out does not speak against it."""
    shown = {name: record[name] for name in wanted if record.get(name) is not None}
    return all(str(value).lower() == str(wanted[name]).lower() for name, value in shown.items())


def _deal(deal_id: str) -> dict[str, str]:
    return {"deal_id": validate.uuid(deal_id, "deal_id")}


def _deal_attributes(attributes: Mapping[str, Any]) -> Record:
    checked = validate.attributes(attributes, reserved=frozenset({"attributes", "contactId", "pipelineId", "stageId"}))
    amount = checked.get("pb_amount")
    if isinstance(amount, float):
        raise e.CrmInvalidValueError(
            "attributes['pb_amount'] is a float, which may differ from what was meant; give the exact digits as text"
        )
    return checked if amount is None else {**checked, "pb_amount": str(amount)}
