"""Programs that some tests run: their Debian packages, and what happens where one is missing.

A test that silently does not run is worse than a failing one, so a missing program fails the test.
`ALLOW_MISSING=1` in the environment skips it instead, and the summary names the program.

    python -m tests.support.programs    # what `make test` calls before it starts
"""

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

PACKAGES: Mapping[str, str] = {
    "age": "age",
    "curl": "curl",
    "initdb": "postgresql",
    "nginx": "nginx-light",
    "node": "nodejs",
    "npm": "npm",
}
"""Debian package of each program, by the name that tests use."""

_OUTSIDE_PATH = ("usr/sbin", "usr/local/sbin", "usr/lib/postgresql/*/bin")
"""Where Debian keeps programs that are not on an ordinary user's PATH, below the root folder."""


def find_program(name: str) -> Path | None:
    """Return where a program is, also where Debian keeps it off the PATH; None if it is not installed."""
    found = shutil.which(name)
    if found is not None:
        return Path(found)
    for pattern in _OUTSIDE_PATH:
        for folder in sorted(Path("/").glob(pattern), reverse=True):
            if os.access(folder / name, os.X_OK):
                return folder / name
    return None


def missing_allowed() -> bool:
    """Tell whether ALLOW_MISSING=1 permits tests to be skipped."""
    return os.environ.get("ALLOW_MISSING") == "1"


def require_program(name: str) -> Path:
    """Return where a program is, or fail the test; skip it by name under ALLOW_MISSING=1."""
    path = find_program(name)
    if path is None:
        message = f"{name} is missing: apt-get install {PACKAGES.get(name, name)}"
        if missing_allowed():
            pytest.skip(message)
        pytest.fail(message, pytrace=False)
    return path


def main() -> int:
    """Name all missing programs and the apt line; return 1 unless ALLOW_MISSING=1 or nothing is missing."""
    missing = [name for name in PACKAGES if find_program(name) is None]
    if not missing:
        return 0
    packages = " ".join(sorted({PACKAGES[name] for name in missing}))
    advice = f"missing: {', '.join(missing)} (apt-get install {packages})"
    if missing_allowed():
        sys.stderr.write(f"{advice}; tests that need them are skipped\n")
        return 0
    sys.stderr.write(f"{advice}; or ALLOW_MISSING=1 to skip the tests that need them\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
