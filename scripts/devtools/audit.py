"""Known vulnerabilities of the exact versions in ``constraints.txt``, as the advisory services tell them.

Not a part of CI: what it says depends on the day and the network, and not on the change that is tested. Its exit code
tells "vulnerable" from "could not ask", which must never pass for "all is well".
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from devtools.steps import ROOT
from devtools.venv import Venv

CLEAN, VULNERABLE, NOT_ASKED = 0, 1, 3

SERVICES = ("pypi", "osv")
"""The first that answers is taken."""

ENOUGH = 0.95
"""Share of the packages that a service must know: where an index stands in its place, all are "not found"."""

Package = Mapping[str, Any]


def audit(venv: Venv, arguments: Sequence[str]) -> int:
    """Ask, and print what was said.

    :param venv: with pip-audit in it
    :param arguments: further ones for pip-audit, such as ``--ignore-vuln ID``
    :return: one of the exit codes above
    """
    unasked = []
    for service in SERVICES:
        packages = _asked(venv, service, arguments)
        known = [package for package in packages if "vulns" in package]
        if packages and len(known) >= ENOUGH * len(packages):
            print(f"{service} was asked about {len(known)} of {len(packages)} packages.")
            return tell(packages)
        unasked.append(f"{service} (it answered for {len(known)} of {len(packages)} packages)")
    print(f"COULD NOT ASK: {', '.join(unasked)}. This says nothing about vulnerabilities: try it with another network.")
    return NOT_ASKED


def tell(packages: Sequence[Package]) -> int:
    """Print the vulnerable ones, and those that the service does not know."""
    found = [(package, flaw) for package in packages for flaw in package.get("vulns", ())]
    for package, flaw in found:
        fixed = ", ".join(flaw.get("fix_versions") or ()) or "no version yet"
        print(f"{package['name']} {package['version']}: {flaw['id']}, fixed in {fixed}")
    for package in packages:
        if "vulns" not in package:
            print(f"{package['name']}: unknown to the service")
    print(f"{len(found)} known vulnerabilities.")
    return VULNERABLE if found else CLEAN


def _asked(venv: Venv, service: str, arguments: Sequence[str]) -> list[Package]:
    """What a service says of each package; nothing if it cannot be reached."""
    command: list[str | Path] = [venv.python, "-m", "pip_audit", "--requirement", "constraints.txt", "--no-deps"]
    command += ["--disable-pip", "--vulnerability-service", service, "--timeout", "10", "--format", "json"]
    command += ["--progress-spinner", "off", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=venv.env(), capture_output=True, text=True, check=False)
    return dependencies_of(done.stdout)


def dependencies_of(output: str) -> list[Package]:
    """The packages in pip-audit's JSON; none if it is no JSON, as after an error."""
    try:
        found = json.loads(output)["dependencies"]
    except (ValueError, KeyError, TypeError):
        return []
    return list(found)
