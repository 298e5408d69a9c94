"""Ingest epochs: one a day, whole before they are used, and gone for good."""

import threading
from datetime import date, timedelta
from pathlib import Path

import pytest

from storage import durable
from storage.ingest import IngestKeys
from storage.keysource import KeySourceError
from tests.support.killing import Killed

DAY = date(2026, 3, 1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder that is not there yet."""
    return tmp_path / "secrets" / "ingest"


def test_epoch_of_a_day_is_made_once_with_both_types(folder: Path) -> None:
    """The same day is the same epoch, also for another process."""
    keys = IngestKeys(folder)
    epoch = keys.current(DAY)
    assert epoch.startswith("2026-03-01.")
    assert IngestKeys(folder).current(DAY) == epoch == keys.current(DAY)
    for kind in ("x25519", "hybrid"):
        first, second = keys.identity(epoch, kind), IngestKeys(folder).identity(epoch, kind)
        assert first is not None
        assert second is not None
        assert first.recipient == second.recipient
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [path.stat().st_mode & 0o777 for path in folder.iterdir()] == [0o600]


def test_many_threads_at_midnight_agree_on_one_epoch(folder: Path) -> None:
    """The first uploads of a day come at once."""
    keys = IngestKeys(folder)
    seen: list[tuple[str, object]] = []

    def work() -> None:
        epoch = keys.current(DAY)
        identity = keys.identity(epoch, "x25519")
        seen.append((epoch, identity and identity.recipient))

    threads = [threading.Thread(target=work) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 16
    assert len(set(seen)) == 1
    assert None not in seen[0]


def test_retiring_destroys_what_is_past_and_not_needed(folder: Path) -> None:
    """Today's stays, and what something waits for; the rest opens nothing, from disk or from memory."""
    keys, other = IngestKeys(folder), IngestKeys(folder)
    epochs = [keys.current(DAY + timedelta(days=number)) for number in range(3)]
    for epoch in epochs:
        assert keys.identity(epoch, "x25519") is not None
        assert other.identity(epoch, "x25519") is not None
    assert keys.retire({"2026-03-01"}, DAY + timedelta(days=2)) == [epochs[1]]
    assert keys.epochs() == [epochs[0], epochs[2]]
    assert keys.identity(epochs[1], "x25519") is None
    assert IngestKeys(folder).identity(epochs[1], "x25519") is None
    # Another process forgets it when it next looks.
    assert other.retire({"2026-03-01"}, DAY + timedelta(days=2)) == []
    assert other.identity(epochs[1], "x25519") is None
    assert keys.identity(epochs[0], "x25519") is not None


def test_retiring_is_durable(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut brings no identity back."""
    keys = IngestKeys(folder)
    epoch = keys.current(DAY)
    done: list[str] = []

    class Spy(durable.Calls):
        """Tells what is taken away and synced."""

        def unlink(self, path: Path) -> None:
            super().unlink(path)
            done.append(path.name)

        def fsync(self, descriptor: int) -> None:
            super().fsync(descriptor)
            done.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)

    monkeypatch.setattr(durable, "calls", Spy())
    keys.retire(set(), DAY + timedelta(days=1))
    assert done == [f"{epoch}.txt", folder.name]


def test_clock_that_goes_back_gets_an_epoch_and_destroys_nothing(folder: Path) -> None:
    """A clock that was wrong costs no key that is needed."""
    keys = IngestKeys(folder)
    tomorrow = keys.current(DAY + timedelta(days=1))
    today = keys.current(DAY)
    assert keys.retire(set(), DAY) == []
    assert keys.epochs() == [today, tomorrow]


def test_retiring_destroys_what_a_killed_process_left(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An identity that was to be destroyed lies under no other name, wherever whoever made it died."""
    names: set[str] = set()
    for point in ("write", "sync", "link", "unlink", "sync-path"):

        def die(reached: str, point: str = point) -> None:
            # Its `finally` would remove what a killed process leaves.
            if reached in {point, "unlink"}:
                raise Killed

        monkeypatch.setattr(durable, "failpoint_hook", die)
        with pytest.raises(Killed):
            IngestKeys(folder).current(DAY)
        monkeypatch.setattr(durable, "failpoint_hook", None)
        names |= {path.name[:11] for path in folder.iterdir()}
        for path in folder.glob("2026-03-01*"):
            path.unlink()
    assert ".2026-03-01" in names
    keys = IngestKeys(folder)
    needed = keys.current(DAY)
    assert keys.retire(set(), DAY) == []
    assert len(list(folder.iterdir())) > 1
    assert keys.retire({DAY.isoformat()}, DAY + timedelta(days=1)) == []
    assert [path.name for path in folder.iterdir()] == [f"{needed}.txt"]


def test_lost_folder_put_back_opens_what_it_opened(folder: Path) -> None:
    """An epoch made meanwhile has another name, so that no identity takes another's place."""
    keys = IngestKeys(folder)
    before = keys.current(DAY)
    identity = keys.identity(before, "hybrid")
    assert identity is not None
    away = folder.rename(folder.with_name("away"))
    lost = IngestKeys(folder)
    assert lost.identity(before, "hybrid") is None
    between = lost.current(DAY)
    assert between != before
    for path in away.iterdir():
        path.rename(folder / path.name)
    back = IngestKeys(folder)
    found, new = back.identity(before, "hybrid"), back.identity(between, "hybrid")
    assert found is not None
    assert new is not None
    assert found.recipient == identity.recipient != new.recipient


def test_folder_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    """The place is named, so that the operator can see why."""
    (tmp_path / "file").write_text("")
    with pytest.raises(KeySourceError, match="ingest"):
        IngestKeys(tmp_path / "file" / "ingest").current(DAY)


def test_epoch_that_others_can_read_is_not_used(folder: Path) -> None:
    """As every other key."""
    keys = IngestKeys(folder)
    epoch = keys.current(DAY)
    (folder / f"{epoch}.txt").chmod(0o640)
    assert IngestKeys(folder).identity(epoch, "x25519") is None
