"""From a row to a deal: fields, constants, required fields per mode, and exact values."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from crm_provider.load.mapping.deal_mapper import Deal, DealMapper
from crm_provider.load.rows import InvalidRow, Row, SourceError

DEAL, STAGE, PIPELINE, CONTACT = (f"{n}{n}{n}{n}{n}{n}{n}{n}-0000-4000-8000-00000000000A" for n in "1234")
MOVE: dict[str, Any] = {"deal_id": "d", "stage_id": "s"}
NEW: dict[str, Any] = {"contact_id": "c", "pipeline_id": {"constant": PIPELINE}, "stage_id": {"constant": STAGE}}
ROW = {"d": DEAL, "s": STAGE, "p": PIPELINE, "c": CONTACT, "m": "Ada <ada@x.org>", "n": "Big"}


def deal_of(mapping: Any, mode: Any = "upsert", *, row: dict[str, Any] | None = None, **options: Any) -> Deal:
    return DealMapper(mapping, mode=mode, **options)(Row(1, ROW if row is None else row))


@pytest.mark.parametrize(
    ("mapping", "mode", "deal"),
    [
        (MOVE, "move", Deal(DEAL, STAGE)),
        ({"deal_id": "d", "pb_name": "n"}, "update", Deal(DEAL, attributes={"pb_name": "Big"})),
        ({"deal_id": "d", "contact_email": "m"}, "update", Deal(DEAL, contact_email="ada@x.org")),
        (NEW, "create", Deal(None, STAGE, PIPELINE, CONTACT)),
        ({**NEW, "attributes.a.b": "n"}, "upsert", Deal(None, STAGE, PIPELINE, CONTACT, attributes={"a.b": "Big"})),
        ({"deal_id": {"column": "d", "optional": True}}, "upsert", Deal(DEAL)),
        (
            {**NEW, "pb_name": {"constant": "All"}},
            "create",
            Deal(None, STAGE, PIPELINE, CONTACT, None, {"pb_name": "All"}),
        ),
    ],
)
def test_row_is_mapped_to_a_deal(mapping: Any, mode: str, deal: Deal) -> None:
    found = deal_of(mapping, mode)
    assert found == deal
    assert Deal.restored(found.attributes, found.fixed) == found
    assert (found.email, found.effect) == (deal.contact_email, [*deal.fixed, deal.attributes])


def test_id_may_be_a_uuid_of_the_database() -> None:
    assert deal_of(MOVE, "move", row={"d": UUID(DEAL), "s": UUID(STAGE)}) == Deal(DEAL.lower(), STAGE.lower())


@pytest.mark.parametrize(
    ("deal", "key"),
    [
        (Deal(DEAL, STAGE), DEAL.lower()),
        (Deal(None, STAGE, PIPELINE, CONTACT), f"{CONTACT.lower()} in {PIPELINE.lower()}"),
        (Deal(None, STAGE, PIPELINE, None, "Ada@X.org"), f"ada@x.org in {PIPELINE.lower()}"),
        (Deal(), " in "),
    ],
)
def test_key_identifies_a_deal(deal: Deal, key: str) -> None:
    assert deal.key == key


def test_column_names_are_used_without_a_mapping() -> None:
    row = {"deal_id": DEAL, "stage_id": STAGE, "pb_amount": "10", "": "3", "Unnamed: 0": "7"}
    row.pop("")
    assert deal_of(None, "update", row=row) == Deal(DEAL, STAGE, attributes={"pb_amount": "10"})
    mapper = DealMapper(None, mode="update")
    assert mapper.columns is None and mapper.constants == frozenset()


def test_extract_can_be_written_back_without_a_mapping() -> None:
    row = {
        "id": DEAL, "contactId": CONTACT, "pipelineId": PIPELINE, "stageId": STAGE, "createdAt": "2026-01-01",
        "attributes.pb_name": "Big",
    }  # fmt: skip
    assert deal_of(None, row=row) == Deal(DEAL, STAGE, PIPELINE, CONTACT, attributes={"pb_name": "Big"})


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        (("deal_id", "stage"), "stage: did you mean 'stage_id'?"),
        (("deal_id", "stage_id", "pb_name"), "mode='move' writes the stage only"),
        (("deal_id",), "mode='move' needs stage_id"),
        (("deal_id", "stage_id", " "), "no field can have the name of this column"),
    ],
)
def test_columns_that_make_no_deal_are_refused(columns: tuple[str, ...], problem: str) -> None:
    with pytest.raises(SourceError, match=problem.replace("?", r"\?")):
        DealMapper(None, mode="move").check_columns(columns)


def test_constants_in_a_mapping() -> None:
    assert DealMapper(NEW, mode="create").constants == {"pipeline_id", "stage_id"}


@pytest.mark.parametrize(
    ("mapping", "mode", "message"),
    [
        ({"deal_id": "d"}, "moov", "mode"),
        ({}, "move", "but is empty"),
        ("deal_id", "move", "but is a str"),
        ({"deal_id": "d"}, "move", "mode='move' needs stage_id"),
        ({"stage_id": "s"}, "update", "mode='update' needs deal_id"),
        ({"deal_id": "d"}, "update", "nothing to write"),
        ({**MOVE, "pb_name": "n"}, "move", "use mode='update'"),
        ({**MOVE, "pipeline_id": "p"}, "update", "does not write pipeline_id"),
        ({**NEW, "deal_id": "d"}, "create", "does not write deal_id"),
        ({"contact_id": "c", "stage_id": "s"}, "upsert", "needs pipeline_id"),
        ({"pb_name": "n"}, "upsert", "needs contact_id or contact_email"),
        ({**NEW, "contact_email": "m"}, "create", "not by both"),
        ({**MOVE, "stage": "s"}, "update", "did you mean 'stage_id'?"),
        ({**MOVE, "x.y": "s"}, "update", "written 'attributes.x.y'"),
        ({**MOVE, "attributes.stageId": "s"}, "update", "no attribute can have this name"),
        ({**MOVE, " n": "s"}, "update", "without space around it"),
        ({**MOVE, "pb_name": "n", "attributes.pb_name": "n"}, "update", "are the same field"),
        ({"deal_id": {"constant": DEAL}, "stage_id": "s"}, "move", "all rows would be one deal"),
        ({"deal_id": "d", "stage_id": {"constant": "won"}}, "move", "not a UUID"),
        ({"deal_id": "d", "stage_id": {"column": "s", "type": "text"}}, "move", "'type'"),
        ({"deal_id": "d", "stage_id": {"column": ""}}, "move", "name the source's column"),
        ({"deal_id": "d", "stage_id": 7}, "move", "not int"),
        ({"deal_id": "d", "pb_name": {"column": "n", "typ": "text"}}, "update", "did you mean"),
    ],
)
def test_invalid_mapping_is_refused(mapping: Any, mode: Any, message: str) -> None:
    with pytest.raises(SourceError) as wrong:
        DealMapper(mapping, mode=mode)
    assert message in str(wrong.value)


def test_unknown_empty_option_is_refused() -> None:
    with pytest.raises(SourceError, match="empty"):
        DealMapper(MOVE, mode="move", empty="drop")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("mapping", "mode", "changed", "problem"),
    [
        (MOVE, "move", {"s": ""}, "stage_id (column 's'): empty"),
        (MOVE, "move", {"d": "deal 7"}, "deal_id (column 'd'): not a UUID"),
        ({**MOVE, "pb_name": "n"}, "update", {"d": None}, "deal_id (column 'd'): empty"),
        (NEW, "create", {"c": ""}, "contact: empty"),
        ({"deal_id": "d", "contact_id": "c", "stage_id": "s"}, "upsert", {"d": ""}, "pipeline_id: empty"),
        ({"deal_id": "d", "contact_email": "m"}, "update", {"m": "ada"}, "contact_email (column 'm')"),
    ],
)
def test_row_without_required_value_is_invalid(mapping: Any, mode: str, changed: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidRow) as wrong:
        deal_of(mapping, mode, row={**ROW, **changed})
    assert problem in str(wrong.value)


ZONE = timezone(timedelta(hours=-3))


@pytest.mark.parametrize(
    ("name", "spec", "value", "written"),
    [
        ("pb_amount", "v", "1500.50", "1500.50"),
        ("pb_amount", "v", Decimal("1500.50"), "1500.50"),
        ("pb_amount", "v", 1500, "1500"),
        ("pb_amount", {"column": "v", "type": "number", "decimal": ",", "thousands": "."}, "1.500,50", "1500.50"),
        ("pb_amount", {"column": "v", "type": "number"}, 0.1, "0.1"),
        ("pb_closingDate", "v", datetime(2026, 1, 31, 12, tzinfo=ZONE), "2026-01-31T15:00:00Z"),
        ("pb_closingDate", {"column": "v", "type": "datetime", "timezone": "America/Sao_Paulo"}, "2026-01-31 12:00:00",
         "2026-01-31T15:00:00Z"),
        ("pb_closingDate", "v", "2026-01-31", "2026-01-31"),
        ("pb_unknown", "v", [1, {"a": True}], [1, {"a": True}]),
    ],
)  # fmt: skip
def test_values_keep_digits_and_time(name: str, spec: Any, value: Any, written: Any) -> None:
    assert deal_of({"deal_id": "d", name: spec}, "update", row={"d": DEAL, "v": value}).attributes == {name: written}


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("pb_amount", 1500.5, "a float, which cannot hold"),
        ("pb_amount", True, "not an amount"),
        ("pb_amount", [1, 2], "not an amount"),
        ("pb_amount", {"value": 10}, "not an amount"),
        ("pb_name", "Ann \ud800", "half a character"),
        ("pb_amount", "\ud800", "half a character"),
        ("pb_closingDate", "2026-01-31T12:00:00", "without a time zone"),
        ("pb_closingDate", "2026-01-31t12:00:00,5", "without a time zone"),
        ("pb_closingDate", "20260131T120000", "without a time zone"),
        ("pb_closingDate", datetime(2026, 1, 31, 12, 0, 0, 5), "without a time zone"),  # noqa: DTZ001
    ],
)
def test_inexact_values_are_refused(name: str, value: Any, problem: str) -> None:
    with pytest.raises(InvalidRow, match=problem):
        deal_of({"deal_id": "d", name: "v"}, "update", row={"d": DEAL, "v": value})
