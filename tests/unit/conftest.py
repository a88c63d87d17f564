"""Settings of the property tests: 60 examples, no deadlines, for the machine is shared; in CI the same each time.

``make fuzz`` asks for many more examples, other ones each time.
"""

import os

import pytest
from hypothesis import HealthCheck, settings

FUZZ = "CRM_FUZZ_EXAMPLES"
"""How many examples each property is tried with, of ever new ones."""

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
"""Folders of tests that add nothing to the coverage of the core: simulations, and tests of what is not the core."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Measure coverage with examples written by hand only.

    No line counts as covered because a random example reached it, and the properties take half of the time.
    """
    for item in items:
        if item.path.parent.name in UNMEASURED or item.get_closest_marker("hypothesis"):
            item.add_marker("no_cover")
