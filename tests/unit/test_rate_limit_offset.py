"""What a host knows of the CRM's clock: responses narrow it, and refusals move an estimate that is in doubt."""

from __future__ import annotations

from dataclasses import replace

import pytest

from crm_provider.rate_limit.offset import CLEAR, Offset

SEEN = Offset(10.5, 10.0, 11.0, 0.05)
OWN = 12.0
"""The offset by a clock of the host that is wrong."""


@pytest.mark.parametrize(
    ("low", "high", "trip", "own", "after"),
    [
        (10.2, 11.2, 0.2, OWN, Offset(10.6, 10.2, 11.0, 0.05)),
        (9.8, 10.8, 0.02, OWN, Offset(10.4, 10.0, 10.8, 0.02)),
        (10.2, 11.2, 0.2, 10.2, Offset(10.2, 10.2, 11.0, 0.05)),
        (9.8, 10.8, 0.2, 10.8, Offset(10.8, 10.0, 10.8, 0.05)),
        (10.2, 11.2, 0.2, 10.1, Offset(10.6, 10.2, 11.0, 0.05)),
        (11.0, 12.0, 0.2, OWN, Offset(11.0, 11.0, 11.0, 0.05)),
        (11.1, 12.3, 0.2, 13.0, Offset(11.65, 11.1, 12.3, 0.2)),  # one of the clocks was set
        (10.0, 11.0, 0.01, 10.9, SEEN),
        (9.0, 12.0, 0.01, 10.9, SEEN),
    ],
)
def test_responses_narrow_the_offset(low: float, high: float, trip: float, own: float, after: Offset) -> None:
    assert SEEN.seen(low, high, trip, own) == after


def test_headers_of_one_second_widen_the_offset() -> None:
    """As soon as one process of the host has noticed it."""
    wide = SEEN.seen(9.5, 12.0, 0.1, 11.5, step=2.0)
    assert wide == Offset(11.5, 10.0, 12.0, 0.05, 2.0)
    assert SEEN.seen(10.0, 12.0, 0.1, 12.5, step=2.0) == Offset(11.0, 10.0, 12.0, 0.05, 2.0)
    assert wide.seen(10.25, 11.25, 0.1, 11.5) == Offset(11.5, 10.25, 12.0, 0.05, 2.0)
    assert wide.seen(9.5, 10.75, 0.1, 11.5) == Offset(11.5, 10.0, 11.75, 0.05, 2.0)
    assert wide.seen(9.5, 11.0, 0.1, 11.5) is wide


@pytest.mark.parametrize(
    ("seen", "is_behind"),
    [
        (Offset(), False),
        (SEEN, False),
        (replace(SEEN, step=2.1), True),
        (Offset(10.0, 10.0, 10.9, 1.0), False),
        (Offset(10.0, 10.0, 10.8, 1.0), True),
    ],
)
def test_contradicting_headers_are_noticed(seen: Offset, is_behind: bool) -> None:
    assert seen.is_behind is is_behind
    assert not is_behind or seen.likely == seen.high


def test_the_first_response_leaves_the_hosts_own_clock_if_it_may_be_right() -> None:
    assert Offset(7.0).seen(10.0, 11.0, 0.05, 10.1) == Offset(10.1, 10.0, 11.0, 0.05)
    assert Offset(7.0).seen(10.0, 11.0, 0.05, OWN) == SEEN


@pytest.mark.parametrize(("own", "ahead"), [(10.0, 10.0), (11.1, 11.1), (11.11, 10.55), (9.9, 10.55)])
def test_the_hosts_own_clock_does_not_fit_a_header_made_long_before_the_response(own: float, ahead: float) -> None:
    """The response took a second, so the header allows two: the last one only if the server made it first of all."""
    seen = Offset(7.0).seen(10.0, 12.0, 1.0, own)
    assert seen == Offset(pytest.approx(ahead), 10.0, 12.0, 1.0)  # type: ignore[arg-type]
    assert (seen.refused(own, 0.25) is seen) is (ahead == own)


def test_the_offset_is_known_after_a_response() -> None:
    assert not Offset(7.0).is_known
    assert SEEN.is_known


@pytest.mark.parametrize(
    ("known", "own", "ahead"),
    [
        (SEEN, OWN, 10.25),
        (SEEN, 9.9, 10.25),
        (SEEN, 10.0, 10.5),
        (SEEN, 11.0, 10.5),
        (Offset(10.5, 10.0, 10.0 + CLEAR + 0.06, 0.05), OWN, 10.04),
        (Offset(10.1, 10.0, 10.0 + CLEAR + 0.04, 0.05), OWN, 10.1),
        (Offset(10.5, 10.0, 11.0, 1.0 - CLEAR), OWN, 10.5),
        (Offset(10.55, 10.0, 12.0, 1.0), 11.5, 10.275),
        (Offset(7.0), OWN, 11.75),
    ],
    ids=[
        "doubt",
        "doubt, slow",
        "own at least",
        "own at most",
        "still in doubt",
        "clear",
        "slow network",
        "slow server",
        "no response",
    ],
)
def test_refusal_moves_an_estimate_in_doubt(known: Offset, own: float, ahead: float) -> None:
    after = known.refused(own, 0.25)
    assert after.ahead == pytest.approx(ahead, abs=0.0026)
    assert (after.low, after.high, after.trip) == (known.low, known.high, known.trip)
    assert (after is known) is (ahead == known.ahead)
