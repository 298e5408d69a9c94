"""The archive for machines without a network, as `make package` makes it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.programs import require_program
from tests.support.server_process import REPOSITORY


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_archive_has_all_that_an_installation_without_network_needs(tmp_path: Path) -> None:
    """Its checksums hold; the program installed from it sets a server up, and has the upload page."""
    subprocess.run([require_program("make"), "package"], cwd=REPOSITORY, check=True)
    (archive,) = (REPOSITORY / "dist").glob("dropoff-tus-*-python*.tar.gz")
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=archive.parent, check=True)
    subprocess.run(["tar", "--extract", "--file", archive], cwd=tmp_path, check=True)
    unpacked = tmp_path / archive.name.removesuffix(".tar.gz")
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=unpacked, check=True)
    program = tmp_path / "installed"
    for command in (
        [os.path.realpath(sys.executable), "-m", "venv", program],
        [program / "bin" / "pip", "install", "--no-index", "--find-links", "wheels", "dropoff-tus"],
        [program / "bin" / "dropoff-tus", "--version"],
        [program / "bin" / "dropoff-tus", "init", "--dir", tmp_path / "data", "--json"],
    ):
        # A network of its own, in which there is nobody.
        offline = [str(part) for part in (require_program("unshare"), "--map-root-user", "--net", *command)]
        subprocess.run(offline, cwd=unpacked, env={"PATH": os.environ["PATH"]}, check=True)
    assert list(program.glob("lib/python*/site-packages/server/web/built/index.html"))
    assert {"deploy", "docs", "nginx", "config.example.toml"} <= {path.name for path in unpacked.iterdir()}
