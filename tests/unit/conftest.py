"""Settings of the property tests: 60 examples, no deadlines, for the machine is shared; in CI the same each time.

``make fuzz`` asks for many more examples, other ones each time.
"""

import os

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
