"""Settings of the unit tests: no deadline, for the machine is shared; the same examples each time in CI."""

import os

from hypothesis import settings

settings.register_profile("unit", deadline=None, print_blob=True, derandomize="CI" in os.environ)
settings.load_profile("unit")
