"""A headless Chromium for tests of user interfaces. Needs the extra ``system`` and Debian's packages."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

T = TypeVar("T")

PACKAGES = ("chromium", "chromium-driver", "fonts-dejavu-core")
HOW_TO_GET_IT = f"Tests in a browser need Chromium and its driver: apt-get install {' '.join(PACKAGES)}"

SIZE = (1280, 900)

PATIENCE = 180.0
"""Seconds until a wait counts as hanging."""

PICTURES = "CRM_PICTURES"
"""Environment variable with the folder for screenshots, such as ``docs/images``. Without it, none are kept."""


def is_there() -> bool:
    """Whether a browser and its driver are installed."""
    return bool(shutil.which("chromium") and shutil.which("chromedriver"))


@contextmanager
def open_browser(profile: Path, *, size: tuple[int, int] = SIZE) -> Iterator[Chrome]:
    """A new browser without a login, until the end of the ``with`` block.

    :param profile: folder of the browser's profile
    """
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService

    options = ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for argument in (
        "--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--no-proxy-server", "--hide-scrollbars",
        "--disable-background-networking", "--no-first-run", f"--user-data-dir={profile}",
        f"--window-size={size[0]},{size[1]}",
    ):  # fmt: skip
        options.add_argument(argument)
    if os.geteuid() == 0:  # Chromium's sandbox does not work for root
        options.add_argument("--no-sandbox")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = Chrome(options=options, service=ChromeService(str(shutil.which("chromedriver"))))
    try:
        yield browser
    finally:
        browser.quit()


def set_colours(browser: Chrome, scheme: str) -> None:
    """Set the colour scheme that the system prefers: ``light`` or ``dark``."""
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def resize(browser: Chrome, width: int, height: int) -> None:
    """Set the size of the page, not of the window."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def complaints(browser: Chrome) -> list[str]:
    """Console errors since the last call, such as script errors and blocked content."""
    return [str(entry["message"]) for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def picture(browser: Chrome, name: str) -> None:
    """Keep a screenshot if a folder for screenshots is set."""
    folder = os.environ.get(PICTURES)
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / name).write_bytes(browser.get_screenshot_as_png())


def text_of(browser: Chrome, selector: str = "body") -> str:
    """The visible text of the first matching element."""
    return str(browser.find_element("css selector", selector).text)


def click(browser: Chrome, by: str, what: str) -> None:
    """Click the first matching element as soon as it exists and nothing covers it."""

    def has_clicked() -> bool:
        found = browser.find_elements(by, what)
        if found:
            found[0].click()
        return bool(found)

    wait_for(has_clicked)


def wait_for(check: Callable[[], T], seconds: float = PATIENCE) -> T:
    """Check until the result is true, and return it.

    An element that is missing, redrawn or covered is searched again.

    :raises TimeoutError: the result did not become true in time
    """
    from selenium.common import exceptions as e

    not_yet = (
        e.ElementClickInterceptedException,
        e.ElementNotInteractableException,
        e.NoSuchElementException,
        e.NoSuchFrameException,
        e.StaleElementReferenceException,
    )
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(*not_yet):
            if found := check():
                return found
        if time.monotonic() > deadline:
            raise TimeoutError(f"it did not come in {seconds:g} s")
        time.sleep(0.3)
