"""Calls about deals."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

from crm_provider import errors as e
from crm_provider.client import validation
from crm_provider.client.pagination import CAREFUL_READINGS, ListingCalls, Page, Record, id_of
from crm_provider.client.remote_contact import CLOCKS_APART
from crm_provider.client.request import Call, after_write, mapping_of, unless_refused
from crm_provider.values.json_values import same_value
from crm_provider.values.server_clock import ServerMoment, utc_time

MAX_UNCERTAINTY = timedelta(minutes=1)
"""The uncertainty up to which a moment decides the age of a deal."""


class DealCalls(ListingCalls):
    """Create, read, change, move and list deals."""

    def create_deal(
        self, *, contact_id: str, pipeline_id: str, stage_id: str, attributes: Mapping[str, Any] | None = None
    ) -> Record:
        """Create a deal; returns ``id``, ``contactId``, ``email``.

        If the response is lost, the account's deals are read (ten per call) before anything is sent again.

        :param attributes: ``pb_name``, ``pb_amount`` (text with the exact digits), ...
        :raises CrmContactAssociatedWithADealError: if the contact has a deal
        """
        body: Record = {
            "contactId": validation.uuid(contact_id, "contact_id"),
            "pipelineId": validation.uuid(pipeline_id, "pipeline_id"),
            "stageId": validation.uuid(stage_id, "stage_id"),
        }
        if attributes is not None:
            body["attributes"] = _deal_attributes(attributes)
        call = Call(method="POST", route="/deals", body=body, success_errors=(e.CrmConflictError,))

        def read_back(first_sent: float) -> Record | None:
            return self.find_own_deal(
                contact_id,
                pipeline_id,
                stage_id=stage_id,
                attributes=attributes,
                since=lambda: self._transport.sent_at(first_sent),
            )

        deal = mapping_of(self._send(call, verify_write=read_back), call)
        id_of(deal.get("id"), call.log_path, "POST")
        return deal

    def find_own_deal(
        self,
        contact_id: str,
        pipeline_id: str,
        *,
        stage_id: str,
        attributes: Mapping[str, Any] | None,
        since: Callable[[], ServerMoment | None],
    ) -> Record | None:
        """The deal that an earlier attempt has created, None if there is none.

        ``createdAt`` distinguishes it from a deal that existed before, or else the attributes. It may already be in
        another stage, because automations and people move deals.

        :param since: returns when the first such attempt was sent, by the CRM's clock; called after the deals were read
        :raises CrmContactAssociatedWithADealError: if there is such a deal and nothing shows who created it
        :raises CrmProtocolError: if the listing does not show whose a deal is that may be the one
        """
        is_undecided = is_unnamed = False
        stage_id = validation.uuid(stage_id, "stage_id").lower()
        attributes = _deal_attributes(attributes) if attributes else None
        for deal in self._deals_of(contact_id, pipeline_id, stage_id=None, carefully=True):
            is_new = _is_new(deal, since())
            has_moved = str(deal.get("stageId") or stage_id).lower() != stage_id
            shown = shown_values(deal.get("attributes"), attributes)
            is_own = is_own_deal(is_new=is_new, has_moved=has_moved, shown=shown)
            if deal.get("contactId") is None:
                is_unnamed |= is_own is not False and False not in shown and (is_new is True or not has_moved)
            elif is_own:
                return deal
            else:
                is_undecided |= is_own is None
        if is_undecided:
            raise unknown_creator()
        if is_unnamed:
            raise e.CrmProtocolError("a deal of the listing has no contactId", method="GET", path="/deals")
        return None

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
        :param attributes: only a deal that does not show other values for these
        :raises CrmProtocolError: if the listing does not show whose the deals are
        """
        attributes = _deal_attributes(attributes) if attributes else None
        for deal in self._deals_of(contact_id, pipeline_id, stage_id=stage_id):
            found = deal.get("attributes")
            not_null = {name: v for name, v in found.items() if v is not None} if isinstance(found, Mapping) else {}
            if False not in shown_values(not_null, attributes):
                return deal
        return None

    def _deals_of(
        self, contact_id: str, pipeline_id: str, *, stage_id: str | None, carefully: bool = False
    ) -> Iterator[Record]:
        """Deals of a contact in a pipeline. A field that the listing leaves out counts as equal.

        :param carefully: see :meth:`list_deals`; includes deals whose contact the listing leaves out
        :raises CrmProtocolError: unless ``carefully``, if the listing leaves out the contact of every deal
        """
        ids = {
            "contactId": validation.uuid(contact_id, "contact_id"),
            "pipelineId": validation.uuid(pipeline_id, "pipeline_id"),
        }
        if stage_id is not None:
            ids["stageId"] = validation.uuid(stage_id, "stage_id")
        is_shown: set[bool] = set()
        for deal in self.list_deals(carefully=carefully):
            is_shown.add(shows_contact(deal))
            shown = {name: deal[name] for name in ids if deal.get(name) is not None}
            is_alike = all(str(value).lower() == ids[name].lower() for name, value in shown.items())
            if is_alike and (carefully or "contactId" in shown):
                id_of(deal.get("id"), "/deals")
                yield deal
        if is_shown == {False} and not carefully:
            raise no_contacts()

    def get_deal(self, deal_id: str) -> Record:
        """One deal: at least ``id``, ``contactId``, ``pipelineId``, ``stageId``, ``attributes`` (fields *inferred*).

        :raises CrmDealNotFoundError: if there is none
        """
        call = Call(method="GET", route="/deals/{deal_id}", path_params=_deal(deal_id))
        deal = mapping_of(self._send(call), call)
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
            body["contactId"] = validation.uuid(contact_id, "contact_id")
        if stage_id is not None:
            body["stageId"] = validation.uuid(stage_id, "stage_id")
        if attributes is not None:
            body["attributes"] = _deal_attributes(attributes)
        if not body:
            raise e.CrmInvalidValueError("nothing to change; give contact_id, stage_id or attributes")
        route = "/deals/{deal_id}"
        call = Call(method="PUT", route=route, path_params=_deal(deal_id), body=body, allow_any_body=True)
        response = mapping_of(self._send(call), call)
        if response.get("id") or not response:  # an empty body is a success, too
            return response
        with after_write():  # other bodies without an id may come from a proxy
            deal = self.get_deal(deal_id)
        if not _is_changed(deal, body):
            raise e.CrmProtocolError(
                "the response has no id, and the deal does not show the change",
                method="PUT",
                path=call.log_path,
                outcome_known=False,
            )
        return response

    def move_deal(self, deal_id: str, *, stage_id: str) -> Record:
        """Move a deal to another stage of its pipeline; returns ``id``.

        :raises CrmDealNotFoundError: if there is no such deal
        :raises CrmStageNotFoundError: if there is no such stage in its pipeline
        """
        return self.update_deal(deal_id, stage_id=validation.uuid(stage_id, "stage_id"))

    def delete_deal(self, deal_id: str) -> None:
        """Delete a deal (that it can be deleted is documented, the path is *inferred*).

        :raises CrmDealNotFoundError: if there is none
        """
        call = Call(
            method="DELETE",
            route="/deals/{deal_id}",
            path_params=_deal(deal_id),
            success_errors=(e.CrmDealNotFoundError,),
            allow_any_body=True,
        )
        unless_refused(self._send(call), call)

    def list_deals(self, *, carefully: bool = False) -> Iterator[Record]:
        """All deals, each once, ten per call (envelope *inferred*).

        :param carefully: read the listing again, up to two times, if deals were created or deleted while it was read.
            A deal may then come twice
        """
        return self._walk("/deals", readings=CAREFUL_READINGS if carefully else 1)

    def count_deals(self) -> int | None:
        """The number of deals of the account, None if the CRM does not report it; one call."""
        return Page.of(self._send(Call(method="GET", route="/deals", query={"page": 0})), "/deals").total


def shows_contact(deal: Record) -> bool:
    """Whether a listing shows whose a deal is; null means that it has no contact."""
    return "contactId" in deal and isinstance(deal["contactId"], (str, type(None)))


def no_contacts() -> e.CrmProtocolError:
    """The error of a listing that leaves out the contact of every deal: a deal that is not found may be there."""
    return e.CrmProtocolError("no deal of the listing has a contactId", method="GET", path="/deals")


def is_own_deal(*, is_new: bool | None, has_moved: bool, shown: Collection[bool | None]) -> bool | None:
    """Whether an earlier attempt has created a deal, which has the contact and the pipeline of the attempt.

    Its age decides, or else its attributes. Its stage and its attributes may have changed since.

    :param is_new: whether it was created after the first attempt; None if the CRM does not show that
    :param has_moved: whether it is in another stage
    :param shown: see :func:`shown_values`
    :return: None if nothing shows it
    """
    differs = False in shown
    if is_new is False or (is_new is None and has_moved and differs):
        return False
    is_alike = bool(shown) and all(shown) and not has_moved
    return True if (is_new or is_alike) and not differs else None


def unknown_creator() -> e.CrmContactAssociatedWithADealError:
    """The error if a deal exists and :func:`is_own_deal` does not know who has created it."""
    return e.CrmContactAssociatedWithADealError(
        "Contact already associated with a deal in this pipeline; the CRM does not show whether an earlier attempt "
        "created it.",
        method="POST",
        path="/deals",
    )


def _is_new(deal: Record, moment: ServerMoment | None) -> bool | None:
    """Whether a deal was created after a moment; None if that is not known."""
    created_at = utc_time(deal.get("createdAt"))
    if created_at is None or moment is None:
        return None
    if created_at < moment.earliest - CLOCKS_APART:
        return False
    return True if moment.latest - moment.earliest <= MAX_UNCERTAINTY else None


def shown_values(found: Any, attributes: Mapping[str, Any] | None) -> list[bool | None]:
    """Whether a deal shows each of these attributes: None if it does not show it at all, False for another value."""
    shown = found if isinstance(found, Mapping) else {}
    pairs = (attributes or {}).items()
    return [same_deal_value(name, shown[name], value) if name in shown else None for name, value in pairs]


def same_deal_value(name: str, found: Any, wanted: Any) -> bool:
    """Whether an attribute has a value already: amounts are compared as numbers, closing dates as points in time.

    >>> same_deal_value("pb_amount", "1500", "1500.00"), same_deal_value("pb_name", "1500", "1500.00")
    (True, False)
    """
    if name == "pb_amount":
        amounts = _amount(found), _amount(wanted)
        if None not in amounts:
            return amounts[0] == amounts[1]
    if name == "pb_closingDate":
        times = utc_time(found), utc_time(wanted)
        if None not in times:
            return times[0] == times[1]
    return same_value(found, wanted)


def _amount(value: Any) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, (str, int, float, Decimal)):
        return None
    try:
        amount = Decimal(str(value).strip())
    except InvalidOperation:
        return None
    return amount if amount.is_finite() else None  # NaN equals nothing, and a signalling NaN raises


def _is_changed(deal: Record, change: Record) -> bool:
    """Whether a deal shows a change: the ids, or one of the attributes, which the CRM may format differently."""
    ids = {name: value for name, value in change.items() if name != "attributes"}
    if ids:
        return all(str(deal.get(name)).lower() == value.lower() for name, value in ids.items())
    found, wanted = deal.get("attributes"), change["attributes"]
    shown = {**dict.fromkeys(wanted), **(found if isinstance(found, Mapping) else {})}  # it may omit empty ones
    return any(shown_values(shown, wanted))


def _deal(deal_id: str) -> dict[str, str]:
    return {"deal_id": validation.uuid(deal_id, "deal_id")}


def _deal_attributes(attributes: Mapping[str, Any]) -> Record:
    checked = validation.attributes(attributes, reserved=validation.RESERVED_DEAL_ATTRIBUTES)
    amount = checked.get("pb_amount")
    if isinstance(amount, float):
        raise e.CrmInvalidValueError(
            "attributes['pb_amount'] is a float, which cannot hold every decimal exactly; give the exact digits as text"
        )
    if isinstance(amount, (bool, list, dict)):
        raise e.CrmInvalidValueError(
            f"attributes['pb_amount'] is a {type(amount).__name__}, not an amount; give the exact digits as text"
        )
    return checked if amount is None else {**checked, "pb_amount": str(amount)}
