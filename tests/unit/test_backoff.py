"""The exponential back-off with jitter."""

from __future__ import annotations

import pytest

from crm_provider.values.backoff import delay


@pytest.mark.parametrize(
    ("attempt", "jitter", "seconds"),
    [
        (1, 1.0, 0.5),
        (2, 1.0, 1.0),
        (3, 1.0, 2.0),
        (4, 1.0, 4.0),
        (5, 1.0, 8.0),
        (6, 1.0, 10.0),
        (1, 0.0, 0.25),
        (3, 0.0, 1.0),
        (6, 0.0, 5.0),
        (2, 0.5, 0.75),
        (0, 1.0, 0.5),
        (5_000, 1.0, 10.0),
    ],
)
def test_delays_double_up_to_the_maximum_and_half_is_jitter(attempt: int, jitter: float, seconds: float) -> None:
    assert delay(attempt, first=0.5, longest=10.0, jitter=jitter) == seconds
