"""The store under a small upload, killed after a written byte: after some in every run, after each by `-m slow`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.server_process import REPOSITORY


def _kills(folder: Path, step: int) -> tuple[int, int]:
    command = [sys.executable, "-m", "tests.support.every_byte", str(folder), str(step)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    return found["kills"], found["bytes"]


def test_kill_after_some_written_bytes_loses_nothing(tmp_path: Path) -> None:
    """In envelopes, records, segments and the receipt, by and by."""
    kills, written = _kills(tmp_path, 61)
    assert kills > written // 61 - 5 > 20


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_kill_after_every_written_byte_loses_nothing(tmp_path: Path) -> None:
    """At each of them."""
    kills, written = _kills(tmp_path, 1)
    # A time that is written in fewer digits makes a run a few bytes shorter than the one that was measured.
    assert kills >= written - 100
