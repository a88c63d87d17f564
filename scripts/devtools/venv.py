"""Virtual environments with this project and its tests' needs in them, made when they are missing or out of date."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from devtools import pythons
from devtools.steps import ROOT, environment, step

INSTALL_ADVICE = (
    "If the messages above speak of the network: connect and run the same command again (it goes on where it stopped). "
    "If a package has no file for your Python: try another Python, for example `python3.12 scripts/dev.py ...`."
)
PATIENT = ("--timeout", "60", "--retries", "10")
"""For pip: a mirror that is slow for a moment is no reason to fail."""

VENV_ADVICE = (
    "This Python cannot make virtual environments. Install the package that lets it (on Debian and Ubuntu: "
    "python3-venv) or uv, and run the same command again."
)


def stamp(parts: Iterable[bytes]) -> str:
    """One hash of all that an installation depends on."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


def find_uv() -> str | None:
    """A ``uv`` that runs: a stand-in on the PATH that leads nowhere does not count."""
    path = shutil.which("uv")
    if path and subprocess.run([path, "--version"], capture_output=True, check=False).returncode == 0:
        return path
    return None


@dataclass(frozen=True)
class Venv:
    """A virtual environment.

    :param folder: where it is
    :param constraints: file with the exact versions to install
    :param interpreter: the Python to make it with
    :param extra: of the project, with what is wanted in it; ``system`` holds ``test``
    """

    folder: Path
    constraints: Path
    interpreter: str
    extra: str = "test"

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    def env(self) -> dict[str, str]:
        """What the environment's ``activate`` would set."""
        env = environment()
        path = os.pathsep.join([str(self.folder / "bin"), env.get("PATH", os.defpath)])
        return {**env, "VIRTUAL_ENV": str(self.folder), "PATH": path}

    def ensure(self) -> None:
        """Make it, or bring it up to date; at once if nothing has changed since.

        :raises StepFailed: a step did not work; the next run does not take the environment for finished
        """
        ready = self.folder / (".ready" if self.extra == "test" else f".ready-{self.extra}")
        version = pythons.full_version(self.interpreter)
        files = [ROOT / "pyproject.toml", self.constraints]
        wanted = stamp([*(file.read_bytes() for file in files), version.encode(), str(self.folder).encode()])
        if ready.exists() and ready.read_text() == wanted:
            return
        ready.unlink(missing_ok=True)
        uv = find_uv()
        if pythons.full_version(str(self.python)) != version:
            self._make(uv, version)
        self._install(uv)
        ready.write_text(wanted)

    def _make(self, uv: str | None, version: str) -> None:
        title = f"making {self.folder.relative_to(ROOT)} with Python {version}"
        if uv:
            command = [uv, "venv", "--clear", "--python", self.interpreter, str(self.folder)]
        else:
            without_pip = [] if _has_module(self.interpreter, "ensurepip") else ["--without-pip"]
            command = [self.interpreter, "-m", "venv", "--clear", *without_pip, str(self.folder)]
        step(title, command, advice=VENV_ADVICE)

    def _install(self, uv: str | None) -> None:
        what = ["-c", str(self.constraints), "-e", f".[{self.extra}]"]
        title = f"installing {self.constraints.relative_to(ROOT)} into {self.folder.relative_to(ROOT)} for {self.extra}"
        if uv:
            command = [uv, "pip", "install", "--python", str(self.python), "--compile-bytecode", *what]
            step(f"{title} with uv", command, advice=INSTALL_ADVICE)
            return
        # An interpreter without ensurepip makes an environment without pip: its own pip can install into that, too.
        has_pip = _has_module(str(self.python), "pip")
        pip = [str(self.python), "-m", "pip"]
        outer_pip = [self.interpreter, "-m", "pip", "--python", str(self.python)]
        update = [*(pip if has_pip else outer_pip), "install", *PATIENT, "--upgrade", "pip>=25"]
        step("updating pip", update, advice=INSTALL_ADVICE if has_pip else VENV_ADVICE)
        step(f"{title} with pip", [*pip, "install", *PATIENT, *what], advice=INSTALL_ADVICE)


def _has_module(python: str, module: str) -> bool:
    return subprocess.run([python, "-c", f"import {module}"], capture_output=True, check=False).returncode == 0
