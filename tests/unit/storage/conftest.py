"""Common to all tests of the store's parts."""

import pytest

from storage import failpoints
from storage.files import durable
from tests.support.killing import Killer
from tests.support.unsynced import UnsyncedCalls


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sync nothing: most of these tests' time would go there. A test that is about syncs brings calls of its own."""
    monkeypatch.setattr(durable, "calls", UnsyncedCalls())


@pytest.fixture
def killer(monkeypatch: pytest.MonkeyPatch) -> Killer:
    """Return what ends the process at a failpoint."""
    killer = Killer()
    monkeypatch.setattr(failpoints, "hook", killer)
    return killer
