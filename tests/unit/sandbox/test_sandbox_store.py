"""The rules of the CRM, without HTTP."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from crm_provider.sandbox import CrmStore, ManualClock, RefusedError, ids

ADA, ALAN = "ada@example.com", "alan@example.com"
NEW, WON = ids.stage_id("Sales", "New"), ids.stage_id("Sales", "Won")
SALES, PARTNERS = ids.pipeline_id("Sales"), ids.pipeline_id("Partners")
UNKNOWN = "00000000-0000-0000-0000-000000000000"


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(RefusedError) as caught:
        call()
    return caught.value.reply.type


def the_deal(store: CrmStore) -> str:
    return next(iter(store.deals))


# -- contacts -----------------------------------------------------------------------------------------------


def test_created_contact_exists(store: CrmStore) -> None:
    store.create_contact("new@example.com", attributes={"name": "New"}, origin={"url": "https://a.example"})
    shown = store.contact("new@example.com").as_json(0)
    assert shown == {
        "id": ids.contact_id("new@example.com"),
        "email": "new@example.com",
        "status": "active",
        "source": "PublicApi",
        "origin": {"url": "https://a.example"},
        "segmentedListsIds": [],
        "createdAt": "2025-01-01T00:00:00.000Z",
        "attributes": {"name": "New"},
    }


def test_contact_is_created_once(store: CrmStore) -> None:
    assert refusal(lambda: store.create_contact(ADA)) == "CONTACT_ALREADY_EXISTS"


def test_email_case_matters(store: CrmStore) -> None:
    store.create_contact(ADA.upper())
    assert store.contact(ADA.upper()).id != store.contact(ADA).id


def test_update_keeps_other_attributes(store: CrmStore) -> None:
    store.update_contact(ADA, {"phone": "+4930123", "position": "Engineer"})
    attributes = store.contact(ADA).attributes
    assert attributes == {"name": "Ada Example", "phone": "+4930123", "position": "Engineer"}


def test_missing_records_cannot_be_read_changed_or_deleted(store: CrmStore) -> None:
    nobody = "nobody@example.com"
    assert refusal(lambda: store.contact(nobody)) == "CONTACT_NOT_FOUND"
    assert refusal(lambda: store.update_contact(nobody, {})) == "CONTACT_NOT_FOUND"
    assert refusal(lambda: store.delete_contact(nobody)) == "CONTACT_NOT_FOUND"
    assert refusal(lambda: store.deal(UNKNOWN)) == "DEAL_NOT_FOUND"
    assert refusal(lambda: store.update_deal(UNKNOWN)) == "DEAL_NOT_FOUND"
    assert refusal(lambda: store.delete_deal(UNKNOWN)) == "DEAL_NOT_FOUND"


def test_deleted_contact_loses_its_deal_and_is_recreated_with_a_new_id(store: CrmStore) -> None:
    old = store.delete_contact(ADA)
    assert ADA not in store.contacts
    assert not store.deals
    assert store.create_contact(ADA).id != old.id


def test_blocked_contact_has_a_timestamp(store: CrmStore, clock: ManualClock) -> None:
    clock.advance(60)
    store.block_contact(ADA)
    shown = store.contact(ADA).as_json(clock.monotonic())
    assert shown["unsubscribedAt"] == shown["blacklistedAt"] == "2025-01-01T00:01:00.000Z"
    assert "blacklistedAt" not in store.contact(ALAN).as_json(clock.monotonic())


# -- deals --------------------------------------------------------------------------------------------------


def create(store: CrmStore, contact: str = ALAN, pipeline: str = SALES, stage: str = NEW) -> str:
    contact_id = store.contacts[contact].id if contact in store.contacts else contact
    return store.create_deal(contact_id=contact_id, pipeline_id=pipeline, stage_id=stage).id


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"contact": UNKNOWN}, "CONTACT_NOT_FOUND"),
        ({"contact": ADA}, "CONTACT_ASSOCIATED_WITH_A_DEAL"),
        ({"pipeline": UNKNOWN}, "PIPELINE_NOT_FOUND"),
        ({"stage": UNKNOWN}, "STAGE_NOT_FOUND"),
        ({"pipeline": PARTNERS}, "STAGE_NOT_FOUND"),
    ],
)
def test_deal_needs_a_free_contact_and_a_stage_of_its_pipeline(
    store: CrmStore, wrong: dict[str, str], error: str
) -> None:
    assert refusal(lambda: create(store, **wrong)) == error
    assert len(store.deals) == 1


def test_contact_may_have_a_deal_again_after_deletion(store: CrmStore) -> None:
    old = the_deal(store)
    store.delete_deal(old)
    assert create(store, ADA) != old


def test_deal_moves_within_its_pipeline_and_keeps_other_fields(store: CrmStore) -> None:
    deal = store.update_deal(the_deal(store), stage_id=WON, attributes={"pb_amount": "7"})
    assert (deal.stage_id, deal.pipeline_id) == (WON, SALES)
    assert deal.attributes == {"pb_name": "First order", "pb_amount": "7"}
    assert refusal(lambda: store.update_deal(deal.id, stage_id=ids.stage_id("Partners", "New"))) == "STAGE_NOT_FOUND"
    assert store.deal(deal.id).stage_id == WON


def test_deal_moves_to_another_contact_if_free(store: CrmStore) -> None:
    deal, other = the_deal(store), create(store)
    alan = store.contacts[ALAN].id
    assert refusal(lambda: store.update_deal(deal, contact_id=alan)) == "CONTACT_ASSOCIATED_WITH_A_DEAL"
    assert refusal(lambda: store.update_deal(deal, contact_id=UNKNOWN)) == "CONTACT_NOT_FOUND"
    store.delete_deal(other)
    store.update_deal(deal, contact_id=alan)
    assert store.deal_of(alan) == store.deal(deal)
    create(store, ADA)  # now free


def test_updated_deal_keeps_its_position_in_the_pages(store: CrmStore) -> None:
    first, second = the_deal(store), create(store)
    store.update_deal(first, stage_id=WON)
    assert list(store.deals) == [first, second]


# -- lists --------------------------------------------------------------------------------------------------


def shown_lists(store: CrmStore, email: str) -> list[str]:
    return list(store.contact(email).as_json(store.clock.monotonic())["segmentedListsIds"])


def test_contact_is_added_to_all_lists_or_none(store: CrmStore) -> None:
    known = [ids.list_id("Newsletter"), ids.list_id("Trial users")]
    assert refusal(lambda: store.add_to_lists(ALAN, [known[0], UNKNOWN])) == "SEGMENTATION_LIST_NOT_FOUND"
    assert shown_lists(store, ALAN) == []
    store.add_to_lists(ALAN, known)
    assert shown_lists(store, ALAN) == known
    assert refusal(lambda: store.add_to_lists("nobody@example.com", known)) == "CONTACT_NOT_FOUND"


def test_membership_shows_after_its_delay_and_a_second_add_does_not_restart_it(
    store: CrmStore, clock: ManualClock
) -> None:
    store.membership_delay = 10
    newsletter = ids.list_id("Newsletter")
    store.add_to_lists(ALAN, [newsletter])
    clock.advance(9)
    store.add_to_lists(ALAN, [newsletter])
    assert shown_lists(store, ALAN) == []
    clock.advance(1)
    assert shown_lists(store, ALAN) == [newsletter]


def test_list_can_appear_later(store: CrmStore, clock: ManualClock) -> None:
    late = store.add_list("Late", appears_after=5)
    assert late not in store.visible_lists
    assert refusal(lambda: store.add_to_lists(ALAN, [late.id])) == "SEGMENTATION_LIST_NOT_FOUND"
    clock.advance(5)
    assert late in store.visible_lists
    store.add_to_lists(ALAN, [late.id])


def test_pipeline_can_be_added(store: CrmStore) -> None:
    store.add_pipeline("Renewals", ["Open", "Done"])
    create(store, pipeline=ids.pipeline_id("Renewals"), stage=ids.stage_id("Renewals", "Done"))
