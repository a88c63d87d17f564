#!/usr/bin/env python3
"""Set up what a job needs, in the project's own virtual environment, and run the job.

    python3 scripts/dev.py demo            run the example pipeline on a real Airflow against the sandbox
    python3 scripts/dev.py test            lint, types, unit and integration tests
    python3 scripts/dev.py test -- -k name only these tests (further arguments go to pytest)
    python3 scripts/dev.py --help          all jobs

This file and devtools/pythons.py are plain enough for every Python 3, so that one that is too old gets a clear line
instead of a traceback.
"""

import sys

from devtools import pythons

if __name__ == "__main__":
    pythons.require_supported()

    from devtools.jobs import main

    sys.exit(main())
