"""The API's description against the real server: generated requests, each answer held to what is described."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.api_client import Api
from tests.support.server_process import ServerProcess

_SETTINGS = """
[checks.positive_data_acceptance]
# Times have to lie ahead, recipients to be keys, ids to be free, uploads to be there still: no schema says that.
expected-statuses = [200, 201, 206, 404, 409, 410, 416, 422]
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Run a server that is patient with wrong tokens."""
    settings = {"LIMITS__WRONG_CODES_PER_HOUR": "0"}
    with ServerProcess(tmp_path_factory.mktemp("schema"), environment=settings) as running:
        # So that there is something to be asked for by its id.
        running.drop.site.upload(b"0123456789")
        yield running


@pytest.mark.parametrize(
    ("phases", "examples"),
    [
        pytest.param("fuzzing,stateful", 3, id="short", marks=pytest.mark.timeout(300)),
        pytest.param(
            "examples,coverage,fuzzing,stateful", 200, id="long", marks=[pytest.mark.slow, pytest.mark.timeout(900)]
        ),
    ],
)
def test_api_answers_as_described_whatever_is_asked(
    server: ServerProcess, tmp_path: Path, phases: str, examples: int
) -> None:
    """Valid and invalid requests get described statuses, types and bodies; nothing fails or forgets the token."""
    (tmp_path / "schemathesis.toml").write_text(_SETTINGS, "ascii")
    done = subprocess.run(
        [
            Path(sys.executable).parent / "schemathesis",
            "run",
            f"{server.url}/api/v1/openapi.json",
            "--header",
            f"Authorization: Bearer {Api.with_scopes(server).token}",
            "--checks=all",
            f"--phases={phases}",
            f"--max-examples={examples}",
            "--generation-deterministic",
            "--no-color",
        ],
        cwd=tmp_path,
        env={**os.environ, "HYPOTHESIS_STORAGE_DIRECTORY": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:]
    assert "Selected: 14/14" in done.stdout, done.stdout
    assert "Tested: 14" in done.stdout, done.stdout
