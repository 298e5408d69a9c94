"""How `make` builds the page, where the outside world does not help."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.programs import require_program

_ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Copy what building the page needs, without what was fetched or built."""
    shutil.copy(_ROOT / "Makefile", tmp_path)
    kept = shutil.ignore_patterns("node_modules")
    shutil.copytree(_ROOT / "server" / "web" / "page", tmp_path / "server" / "web" / "page", ignore=kept)
    (tmp_path / ".venv").symlink_to(_ROOT / ".venv")
    return tmp_path


def _make_without_registry(checkout: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Run `make page` where no package can be fetched."""
    nowhere = {
        "npm_config_registry": "http://127.0.0.1:9/",
        "npm_config_fetch_retries": "0",
        "npm_config_cache": str(checkout / "cache"),
    }
    return subprocess.run(
        [require_program("make"), "page"],
        cwd=checkout,
        env={**os.environ, **nowhere, "ALLOW_MISSING": "", **more},
        capture_output=True,
        text=True,
        check=False,
    )


def test_page_without_registry_is_not_built_and_says_so_in_a_sentence(checkout: Path) -> None:
    """Without the npm registry `make` fails with one sentence, and succeeds with it under ALLOW_MISSING=1."""
    sentence = (
        "The upload page is not built: npm could not fetch its packages (ECONNREFUSED)."
        " Run make again where the npm registry can be reached."
    )
    made = _make_without_registry(checkout)
    assert made.returncode != 0
    assert [line for line in made.stderr.splitlines() if not line.startswith("make")] == [sentence]
    allowed = _make_without_registry(checkout, ALLOW_MISSING="1")
    assert allowed.returncode == 0, allowed.stderr
    assert sentence in allowed.stderr
    assert not (checkout / "server" / "web" / "built").exists()
