"""A headless Chromium for tests of what a person sees. Needs the extra ``system`` and Debian's packages."""

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
"""Seconds until something hangs."""

PICTURES = "CRM_PICTURES"
"""Environment variable: folder for the screenshots, such as ``docs/images``; without it none are kept."""


def is_there() -> bool:
    """Whether there is a browser and what drives it."""
    return bool(shutil.which("chromium") and shutil.which("chromedriver"))


@contextmanager
def open_browser(profile: Path, *, size: tuple[int, int] = SIZE) -> Iterator[Chrome]:
    """A browser of its own, without a login, for as long as the block lasts.

    :param profile: folder for what it keeps
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
    """What the system prefers: ``light`` or ``dark``."""
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def resize(browser: Chrome, width: int, height: int) -> None:
    """The size of the page, not of the window."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def complaints(browser: Chrome) -> list[str]:
    """What the browser has said about pages since the last call: broken scripts, refused content."""
    return [str(entry["message"]) for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def picture(browser: Chrome, name: str) -> None:
    """Keep a screenshot, if they are wanted."""
    folder = os.environ.get(PICTURES)
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / name).write_bytes(browser.get_screenshot_as_png())


def text_of(browser: Chrome, selector: str = "body") -> str:
    """What can be read in the first element of a kind."""
    return str(browser.find_element("css selector", selector).text)


def click(browser: Chrome, by: str, what: str) -> None:
    """Click the first element of a kind as soon as it is there and nothing is on top of it."""

    def has_clicked() -> bool:
        found = browser.find_elements(by, what)
        if found:
            found[0].click()
        return bool(found)

    wait_for(has_clicked)


def wait_for(look: Callable[[], T], seconds: float = PATIENCE) -> T:
    """Look until there is something, and return it.

    An element that is missing, redrawn or covered is searched again.

    :raises TimeoutError: it did not come
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
            if found := look():
                return found
        if time.monotonic() > deadline:
            raise TimeoutError(f"it did not come in {seconds:g} s")
        time.sleep(0.3)
