"""Settings of the property tests: 60 examples, no deadlines (the machine is shared), and fixed examples in CI.

``make fuzz`` runs many more examples, new ones each time.
"""

import os

import pytest
from hypothesis import HealthCheck, settings
from loop_logs import no_loop_logs  # noqa: F401 - a fixture

FUZZ = "CRM_FUZZ_EXAMPLES"
"""Number of new random examples for each property."""

settings.register_profile(
    "unit",
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    print_blob=True,
    derandomize="CI" in os.environ,
)
settings.load_profile("unit")
if FUZZ in os.environ:
    settings.register_profile(
        "fuzz", settings.get_profile("unit"), derandomize=False, max_examples=int(os.environ[FUZZ])
    )
    settings.load_profile("fuzz")

UNMEASURED = frozenset({"load_model", "sandbox"})
"""Folders of tests that do not count for the core's coverage: simulations, and tests of other code."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Measure coverage with hand-written examples only.

    A line that only a random example reached does not count as covered, and the property tests take half of the time.
    """
    for item in items:
        if item.path.parent.name in UNMEASURED or item.get_closest_marker("hypothesis"):
            item.add_marker("no_cover")
