"""Programs beside Python that some jobs need."""

from __future__ import annotations

import os
import shutil

from redis_server import HOW_TO_GET_IT

from devtools.steps import StepFailed, step


def get_redis() -> None:
    """Install ``redis-server`` if it is missing and we may; otherwise say what to do. What needs it says so itself."""
    if shutil.which("redis-server"):
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        print(HOW_TO_GET_IT)
        return
    try:
        step("apt-get update", ["apt-get", "update"], advice="Is there a way to the package mirror?")
        step("apt-get install redis-server", ["apt-get", "install", "-y", "redis-server"], advice=HOW_TO_GET_IT)
    except StepFailed as failed:
        print(failed)
