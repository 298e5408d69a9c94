"""The helper that decides between failing and skipping."""

import pytest

from tests.support.programs import main, require_program


@pytest.fixture
def empty_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide every program that is found through the PATH."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("ALLOW_MISSING", raising=False)


@pytest.mark.usefixtures("empty_path")
def test_require_program_missing_fails_with_the_package() -> None:
    """A missing program fails the test and names what to install."""
    with pytest.raises(pytest.fail.Exception, match="apt-get install age"):
        require_program("age")


@pytest.mark.usefixtures("empty_path")
def test_require_program_missing_and_allowed_skips(monkeypatch: pytest.MonkeyPatch) -> None:
    """ALLOW_MISSING=1 turns the failure into a skip that names the program."""
    monkeypatch.setenv("ALLOW_MISSING", "1")
    with pytest.raises(pytest.skip.Exception, match="age is missing"):
        require_program("age")


@pytest.mark.usefixtures("empty_path")
def test_main_missing_prints_one_line_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    """Before the run, one line names all that is missing."""
    assert main() == 1
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert "age" in line
    assert "apt-get install" in line
