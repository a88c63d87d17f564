"""Programs beside Python that some jobs need."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence

import browser
from redis_server import HOW_TO_GET_IT

from devtools.steps import StepFailed, step


def get_redis() -> None:
    """Install ``redis-server`` if it is missing and we may; otherwise say what to do. What needs it says so itself."""
    if not shutil.which("redis-server"):
        _install(["redis-server"], advice=HOW_TO_GET_IT)


def get_browser() -> None:
    """The same for Chromium and what drives it."""
    if not browser.is_there():
        _install(browser.PACKAGES, advice=browser.HOW_TO_GET_IT)


def _install(packages: Sequence[str], *, advice: str) -> None:
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        print(advice)
        return
    try:
        step("apt-get update", ["apt-get", "update"], advice="Is there a way to the package mirror?")
        install = ["apt-get", "install", "-y", "--no-install-recommends", *packages]
        step(f"apt-get install {' '.join(packages)}", install, advice=advice)
    except StepFailed as failed:
        print(failed)
