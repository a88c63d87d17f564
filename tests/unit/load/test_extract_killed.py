"""An extract whose process is killed, at many moments: the file is that of an extract that nothing disturbed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from crm_provider.client.client import CrmClient
from crm_provider.client.pagination import AT_ONCE
from crm_provider.client.settings import Settings
from crm_provider.extract.extractor import Extractor
from crm_provider.sandbox import Sandbox

PROGRAM = """
import json, sys
from crm_provider.client.client import CrmClient
from crm_provider.extract.extractor import Extractor
from crm_provider.client.settings import Settings
key, url, target = sys.argv[1:]
with CrmClient(Settings(api_key=key, base_url=url, rate_store="off")) as client:
    print(json.dumps(Extractor(client, "contacts", target).run()))
"""

PAGES = 60


def start(sandbox: Sandbox, target: Path) -> subprocess.Popen[str]:
    arguments = [sandbox.api_key or "", sandbox.url, str(target)]
    return subprocess.Popen([sys.executable, "-c", PROGRAM, *arguments], stdout=subprocess.PIPE, text=True)


def safe_pages(target: Path) -> int:
    """Pages in the parts: each part has a head and then a line for each page."""
    parts = target.parent.glob(f"{target.name}.part-*")
    return sum(max(part.read_bytes().count(b"\n") - 1, 0) for part in parts)


def kill_when(process: subprocess.Popen[str], target: Path, pages: int) -> int:
    """Kill it once so many pages are safe.

    :return: how many are
    """
    deadline = time.monotonic() + 300
    while safe_pages(target) < pages:
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline, "it reads no pages"
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    return safe_pages(target)


def hold_after(sandbox: Sandbox, target: Path, pages: int) -> None:
    """Answer until so many pages are safe, and then hold all answers back: no extract gets away before it is killed.

    Of the pages that are asked for at once the first may be answered last, and those that the one before had asked for
    when it was killed may be answered now.
    """
    sandbox.clear_faults()
    sandbox.add_fault(effect="latency", latency=3600, after=pages + 2 * AT_ONCE - safe_pages(target))


@pytest.mark.slow
@pytest.mark.crm_sandbox(seed=f"contacts:{PAGES * 10 - 3}", rate=None)
@pytest.mark.parametrize("name", ["contacts.jsonl", "contacts.csv.gz"])
def test_killed_again_and_again(name: str, crm_sandbox: Sandbox, tmp_path: Path) -> None:
    undisturbed, target = tmp_path / "whole" / name, tmp_path / "killed" / name
    settings = Settings(api_key=crm_sandbox.api_key or "", base_url=crm_sandbox.url, rate_store="off")
    with CrmClient(settings) as client:
        Extractor(client, "contacts", undisturbed).run()
    target.parent.mkdir()
    read_before = len(crm_sandbox.journal())
    kills = [1, 13, 25, 37]
    for pages in kills:
        hold_after(crm_sandbox, target, pages)
        safe = kill_when(start(crm_sandbox, target), target, pages)
        assert not target.exists()
        assert safe >= pages
    crm_sandbox.clear_faults()
    output, _ = start(crm_sandbox, target).communicate(timeout=300)
    done: dict[str, Any] = json.loads(output)
    assert target.read_bytes() == undisturbed.read_bytes()
    assert [path.name for path in target.parent.iterdir()] == [name], "nothing is left beside it"
    assert (done["records"], done["pages"], done["changed_during_read"]) == (PAGES * 10 - 3, PAGES, False)
    assert done["calls"] <= PAGES - kills[-1]
    reads = len(crm_sandbox.journal()) - read_before
    assert PAGES <= reads <= PAGES + len(kills) * (AT_ONCE + 1), "only what was in in_flight at a kill was read twice"
