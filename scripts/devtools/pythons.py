"""Which Python: the supported versions, and where their interpreters are.

Read by every Python 3, also by old ones: no annotations of newer kinds here.
"""

import glob
import os
import shutil
import subprocess
import sys

SUPPORTED = ((3, 10), (3, 11), (3, 12), (3, 13))


def require_supported():  # type: () -> None
    """Go on only with a supported Python: change over to another one if need be, else end with one clear line."""
    if sys.version_info[:2] in SUPPORTED:
        return
    versions = [name(version) for version in (sys.version_info[:2], SUPPORTED[0], SUPPORTED[-1])]
    problem = "Python {} is not supported ({} to {} are)".format(*versions)
    for version in reversed(SUPPORTED):
        other = find(version)
        if other:
            print("{}: going on with {}".format(problem, other))
            sys.stdout.flush()
            os.execv(other, [other] + sys.argv)
    sys.exit(problem + ", and there is none of these here: install one and run this again with it")


def name(version):  # type: (tuple[int, int]) -> str
    """``3.11`` for ``(3, 11)``."""
    return "{}.{}".format(*version)


def parse(version):  # type: (str) -> tuple[int, int]
    """``(3, 11)`` for ``3.11.7``."""
    major, minor = version.split(".")[:2]
    return int(major), int(minor)


def current():  # type: () -> str
    """The interpreter that runs this; inside a virtual environment, the one it was made with."""
    return str(getattr(sys, "_base_executable", None) or sys.executable)


def find(version):  # type: (tuple[int, int]) -> str | None
    """An interpreter of this version that runs: this one, one on the PATH, or one of pyenv's."""
    if sys.version_info[:2] == version:
        return current()
    command = "python" + name(version)
    pyenv = os.path.join(os.environ.get("PYENV_ROOT") or os.path.expanduser("~/.pyenv"), "versions")
    candidates = [shutil.which(command)] + sorted(glob.glob(os.path.join(pyenv, name(version) + ".*", "bin", command)))
    for path in candidates:
        # pyenv's stand-ins on the PATH exist for versions that are not switched on: only a run tells
        if path and full_version(path).startswith(name(version) + "."):
            return path
    return None


def full_version(path):  # type: (str) -> str
    """``3.11.7``; empty if the interpreter does not run."""
    try:
        done = subprocess.run(
            [path, "-c", "import platform; print(platform.python_version())"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            check=False,
        )
    except OSError:
        return ""
    return done.stdout.decode().strip()
