"""The stores under test."""

from pathlib import Path

import pytest

from storage.files import durable
from tests.integration.store.harness import Backend, FileBackend, MemoryBackend, Uploads
from tests.support.unsynced import UnsyncedCalls


@pytest.fixture(params=["file", "memory"])
def uploads(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Uploads:
    """Return uploads on a new store, once on each kind."""
    monkeypatch.setattr(durable, "calls", UnsyncedCalls())
    backend: Backend = FileBackend(tmp_path) if request.param == "file" else MemoryBackend(tmp_path)
    return Uploads(backend)
