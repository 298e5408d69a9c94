"""The stores under test."""

from collections.abc import Callable
from pathlib import Path

import pytest

from storage.files import durable
from tests.integration.store.harness import Backend, EngineBackend, MemoryBackend, Uploads
from tests.support.store_kit import MemoryKit, StoreKit
from tests.support.unsynced import UnsyncedCalls

_BACKENDS: dict[str, Callable[[Path], Backend]] = {
    "file": lambda folder: EngineBackend(StoreKit(folder)),
    "engine-in-memory": lambda folder: EngineBackend(MemoryKit(folder)),
    "memory": MemoryBackend,
}


@pytest.fixture(params=_BACKENDS)
def uploads(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Uploads:
    """Return uploads on a new store, once on each kind."""
    monkeypatch.setattr(durable, "calls", UnsyncedCalls())
    return Uploads(_BACKENDS[request.param](tmp_path))
