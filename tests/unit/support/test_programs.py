"""The helper that decides between failing and skipping."""

from pathlib import Path

import pytest

from tests.support import programs
from tests.support.programs import CURRENT_AGE, find_program, require_program


@pytest.fixture
def only_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Leave one empty folder on the PATH."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(programs, "_BUILT", tmp_path / "built")
    return tmp_path


@pytest.fixture
def empty_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide every program that is found through the PATH."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("ALLOW_MISSING", raising=False)


@pytest.mark.usefixtures("empty_path")
def test_require_program_missing_fails_with_what_installs_it() -> None:
    """A missing program fails the test and names the script that installs it."""
    with pytest.raises(pytest.fail.Exception, match=r"age is missing: \.ci/packages"):
        require_program("age")


@pytest.mark.usefixtures("empty_path")
def test_require_program_missing_and_allowed_skips(monkeypatch: pytest.MonkeyPatch) -> None:
    """ALLOW_MISSING=1 turns the failure into a skip that names the program."""
    monkeypatch.setenv("ALLOW_MISSING", "1")
    with pytest.raises(pytest.skip.Exception, match="age is missing"):
        require_program("age")


@pytest.mark.parametrize(("version", "found"), [("1.1.1", False), ("v1.2.9", False), ("v1.3.0", True), ("2.0.0", True)])
def test_current_age_is_found_by_its_version(only_path: Path, version: str, found: bool) -> None:
    """An age that does not know hybrid keys is not taken for one that does."""
    script = only_path / "age"
    script.write_text(f"#!/bin/sh\necho {version}\n")
    script.chmod(0o755)
    assert (find_program(CURRENT_AGE) == script) is found


@pytest.mark.usefixtures("only_path")
def test_current_age_missing_fails_with_what_builds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """No Debian package has it, so the message names the target that builds it."""
    monkeypatch.delenv("ALLOW_MISSING", raising=False)
    with pytest.raises(pytest.fail.Exception, match="make tools"):
        require_program(CURRENT_AGE)
