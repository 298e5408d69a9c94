"""Programs that some tests run, and what happens where one is missing. Their Debian packages stand in `.ci/packages`.

A test that silently does not run is worse than a failing one, so a missing program fails the test.
`ALLOW_MISSING=1` in the environment skips it instead, and the summary names the program.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

CURRENT_AGE = "age 1.3"
"""The name of an age that knows hybrid keys, which Debian 12 does not have: `make tools` builds it."""
TUSD = "tusd"
"""A tusd with files, locks and HTTP hooks: `make tools` builds it from tests/tools/tusd."""
PEBBLE = "pebble"
"""A small ACME server: `make tools` builds it."""
BUILT_PAGE = "the built upload page"
_PAGE = Path(__file__).resolve().parents[2] / "server" / "web" / "built" / "index.html"
_BUILT = Path(__file__).resolve().parents[1] / "tools" / "bin"
_HYBRID_VERSION = (1, 3)

_OUTSIDE_PATH = ("usr/sbin", "usr/local/sbin", "usr/lib/postgresql/*/bin")
"""Where Debian keeps programs that are not on an ordinary user's PATH, below the root folder."""


def find_program(name: str) -> Path | None:
    """Return where a program is, also where Debian keeps it off the PATH; None if it is not installed."""
    if name == CURRENT_AGE:
        return _current_age()
    if name in {TUSD, PEBBLE}:
        return _BUILT / name if os.access(_BUILT / name, os.X_OK) else None
    if name == BUILT_PAGE:
        return _PAGE if _PAGE.exists() else None
    found = shutil.which(name)
    if found is not None:
        return Path(found)
    for pattern in _OUTSIDE_PATH:
        for folder in sorted(Path("/").glob(pattern), reverse=True):
            if os.access(folder / name, os.X_OK):
                return folder / name
    return None


def _current_age() -> Path | None:
    """Return the age that was built for the tests, or else a new enough one on the PATH, beside its age-keygen."""
    candidates = [_BUILT / "age"]
    if on_path := shutil.which("age"):
        candidates.append(Path(on_path))
    for path in candidates:
        if os.access(path, os.X_OK):
            said = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
            version = re.match(r"v?(\d+)\.(\d+)", said)
            if version is not None and (int(version[1]), int(version[2])) >= _HYBRID_VERSION:
                return path
    return None


def _remedy(name: str) -> str:
    """Return the command that brings a program."""
    return {CURRENT_AGE: "make tools", TUSD: "make tools", PEBBLE: "make tools", BUILT_PAGE: "make page"}.get(
        name, ".ci/packages"
    )


def missing_allowed() -> bool:
    """Tell whether ALLOW_MISSING=1 permits tests to be skipped."""
    return os.environ.get("ALLOW_MISSING") == "1"


def require_program(name: str) -> Path:
    """Return where a program is, or fail the test; skip it by name under ALLOW_MISSING=1."""
    path = find_program(name)
    if path is None:
        message = f"{name} is missing: {_remedy(name)}"
        if missing_allowed():
            pytest.skip(message)
        pytest.fail(message, pytrace=False)
    return path
