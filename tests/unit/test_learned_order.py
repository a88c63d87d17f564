"""The learned order of an upsert's calls costs at most 2 % more calls than the better fixed order."""

from __future__ import annotations

import random

import pytest

from crm_provider.client.upsert import MEMORY, LearnedOrder

ROWS = 3000


def best_fixed_order(existing: list[bool]) -> int:
    """Calls of the better fixed order: one call per row, and one more where it was wrong."""
    return len(existing) + min(existing.count(True), existing.count(False))


def calls(order: LearnedOrder, existing: list[bool]) -> int:
    """Calls for rows that exist or not: one, or two if the wrong call went first."""
    spent = 0
    for exists in existing:
        spent += 1 if order.update_first == exists else 2
        order.learn(existed=exists)
    return spent


@pytest.mark.parametrize("share", [0.0, 0.05, 0.2, 0.4, 0.45, 0.5, 0.52, 0.55, 0.6, 0.8, 0.95, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_learned_order_costs_at_most_two_percent_more_than_the_better_one(share: float, seed: int) -> None:
    rng = random.Random(seed)
    existing = [rng.random() < share for _ in range(ROWS)]
    assert calls(LearnedOrder(), existing) <= best_fixed_order(existing) * 1.02


@pytest.mark.parametrize("first", [True, False])
def test_sorted_source_costs_no_more_than_the_better_order(first: bool) -> None:
    existing = [first] * ROWS + [not first] * ROWS
    assert calls(LearnedOrder(), existing) < best_fixed_order(existing) * 0.9


def test_prior_knowledge_counts_from_the_first_row() -> None:
    assert LearnedOrder(share=0.8, weight=20).update_first
    assert not LearnedOrder(share=0.2, weight=20).update_first
    assert not LearnedOrder().update_first


def test_last_five_hundred_rows_count() -> None:
    order = LearnedOrder()
    assert order.share == 0.0
    order.learn(existed=True)
    assert order.share == 1.0
    for _ in range(MEMORY - 1):
        order.learn(existed=True)
    order.learn(existed=False)
    assert order.share == pytest.approx((MEMORY - 1) / MEMORY, abs=1e-9)
    order.learn(existed=False)
    assert order.share == pytest.approx(((MEMORY - 1) / MEMORY) ** 2, abs=1e-9)


def test_half_is_not_a_majority() -> None:
    assert not LearnedOrder(share=0.5, weight=2).update_first
    assert LearnedOrder(share=0.51, weight=2).update_first
