"""The order of an upsert's halves: learned, and never far from the best there is."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crm_provider.ordering import UpsertOrder


def cost(outcomes: list[bool]) -> int:
    """Calls for a series of upserts, each told whether the contact exists."""
    order, calls = UpsertOrder(), 0
    for existed in outcomes:
        calls += 1 if order.update_first == existed else 2
        order.learn(existed=existed)
    return calls


def test_create_goes_first_until_something_is_known() -> None:
    assert not UpsertOrder().update_first


def test_the_order_follows_what_happens() -> None:
    order = UpsertOrder()
    for _ in range(20):
        order.learn(existed=True)
    assert order.update_first
    for _ in range(20):
        order.learn(existed=False)
    assert not order.update_first


def test_one_odd_contact_does_not_turn_it_round() -> None:
    order = UpsertOrder()
    for _ in range(20):
        order.learn(existed=True)
    order.learn(existed=False)
    assert order.update_first


@pytest.mark.parametrize("share", [0.0, 0.05, 0.3, 0.7, 0.95, 1.0])
def test_it_costs_hardly_more_than_the_best_fixed_order(share: float) -> None:
    dice = random.Random(1)
    outcomes = [dice.random() < share for _ in range(5000)]
    existing = sum(outcomes)
    best = len(outcomes) + min(existing, len(outcomes) - existing)
    assert cost(outcomes) <= best * 1.06


@given(st.lists(st.booleans(), max_size=200))
def test_it_never_costs_more_than_two_calls_each(outcomes: list[bool]) -> None:
    assert len(outcomes) <= cost(outcomes) <= 2 * len(outcomes)


@given(st.lists(st.booleans(), max_size=50), st.booleans())
def test_any_past_is_overcome_by_ten_of_a_kind(past: list[bool], existed: bool) -> None:
    order = UpsertOrder()
    for outcome in [*past, *[existed] * 10]:
        order.learn(existed=outcome)
    assert order.update_first is existed
