"""The stores under test."""

from pathlib import Path

import pytest

from tests.integration.store.harness import Backend, FileBackend, MemoryBackend, Uploads


@pytest.fixture(params=["file", "memory"])
def uploads(request: pytest.FixtureRequest, tmp_path: Path) -> Uploads:
    """Return uploads on a new store, once on each kind."""
    backend: Backend = FileBackend(tmp_path) if request.param == "file" else MemoryBackend(tmp_path)
    return Uploads(backend)
