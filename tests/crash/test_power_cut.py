"""Cut the power at every step: in each state that a disk may be left in, all that was acknowledged is there.

`DROPOFF_TUS_CRASH_POINTS` sets how many states the long run looks at, `DROPOFF_TUS_CRASH_SEED` draws others.
"""

import asyncio
import itertools
import os
import random
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from dropoff_tus.errors import DropoffError, UploadNotFoundError
from dropoff_tus.model import Mode
from storage.files import durable
from tests.support import crash_scenarios
from tests.support.aio import async_test
from tests.support.crash_scenarios import SCENARIOS, Client, Sent
from tests.support.power_cut import KilledError, Medium, Recorder
from tests.support.store_kit import StoreKit
from tests.support.unsynced import UnsyncedCalls

_LUCKS = (0.0, 1.0, 0.5)


@dataclass(frozen=True, slots=True)
class _Plan:
    """A scenario, and how densely to look at it."""

    name: str
    points: float
    draws: int
    seed: str
    die_at: int | None = None


async def _record(plan: _Plan, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[StoreKit, Recorder]:
    """Run a scenario, killed before one of its calls if asked, and then all that a restart does."""
    kit = StoreKit(folder, mode=crash_scenarios.mode_of(plan.name))
    recorder = Recorder(folder)
    recorder.die_at = plan.die_at
    monkeypatch.setattr(durable, "calls", recorder)
    client = Client(kit, recorder.note)
    try:
        await SCENARIOS[plan.name](client)
    except (KilledError, DropoffError, RuntimeError):
        # The reports of a dying process about its own death are nobody's concern.
        if not recorder.dead:
            raise
        await kit.store.close()
        recorder.revive()
        kit.open()
        await crash_scenarios.verify(client)
    await kit.store.close()
    monkeypatch.setattr(durable, "calls", UnsyncedCalls())
    return kit, recorder


async def _verify_state(kit: StoreKit, sent: dict[str, Sent], folder: Path, seed: str) -> None:
    client = Client(kit.at(folder))
    client.sent = crash_scenarios.copy_of(sent)
    try:
        await crash_scenarios.verify(client)
    except (AssertionError, DropoffError, OSError) as error:
        message = f"state {seed}: {type(error).__name__}: {error}"
        raise AssertionError(message) from error
    finally:
        await client.kit.store.close()


async def _cut_everywhere(kit: StoreKit, recorder: Recorder, folder: Path, plan: _Plan) -> int:
    """Look at a journal's points; return how many states that were.

    After each answer all that was not synced is lost, and after each change of a name nothing is (a kill): most rules
    are about these two. Besides, a share of all points.
    """
    medium, sent = Medium(recorder), {}
    chance, count = random.Random(plan.seed), 0
    share = plan.points / sum(change.kind != "note" for change in recorder.journal)
    for point, change in enumerate(recorder.journal):
        lucks = []
        if change.kind == "note":
            sent, lucks = change.note, [0.0]
        else:
            medium.apply(change)
            if change.kind in {"unlink", "rename"}:
                lucks = [1.0]
            if chance.random() < share:
                lucks += [*_LUCKS, *([0.5] * plan.draws)][: plan.draws]
        for draw, luck in enumerate(lucks):
            seed = f"{plan.seed}/{point}/{draw}"
            with tempfile.TemporaryDirectory(dir=folder) as place:
                medium.survive(Path(place), random.Random(seed), luck)
                await _verify_state(kit, sent, Path(place), seed)
            count += 1
    return count


def _run(plan: _Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    recorded = Path(tempfile.mkdtemp(dir=tmp_path))

    async def work() -> int:
        kit, recorder = await _record(plan, recorded, monkeypatch)
        return await _cut_everywhere(kit, recorder, tmp_path, plan)

    with crash_scenarios.small_segments():
        return asyncio.run(work())


@pytest.mark.parametrize("name", SCENARIOS)
def test_power_cut_loses_nothing_acknowledged(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a sample of states every acknowledged byte is there, the upload goes on, and nothing honest is refused."""
    assert _run(_Plan(name, points=8, draws=3, seed="0"), tmp_path, monkeypatch) > 0


@pytest.mark.parametrize("name", SCENARIOS)
def test_power_cut_after_a_kill_loses_nothing_acknowledged(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same where a killed process left things unsynced, and a second one acknowledged what it found."""
    for die_at in (13, 29):
        _run(_Plan(name, points=2, draws=2, seed="0", die_at=die_at), tmp_path, monkeypatch)


def test_power_cut_after_a_kill_before_a_sync_loses_nothing_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log line that a killed process wrote and did not sync is durable before the next one tells of it."""
    _, recorder = asyncio.run(_record(_Plan("small", 0, 0, "0"), Path(tempfile.mkdtemp(dir=tmp_path)), monkeypatch))
    pairs = itertools.pairwise(change for change in recorder.journal if change.kind != "note")
    syncs = [
        after.call - 1 for before, after in pairs if before.kind == "write" and before.offset and after.kind == "sync"
    ]
    assert syncs
    for die_at in syncs:
        _run(_Plan("small", points=15, draws=1, seed="0", die_at=die_at), tmp_path, monkeypatch)


def _leave(path: Path, left: bytes | None) -> None:
    path.unlink()
    if left is not None:
        path.write_bytes(left)


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("left", [None, b"", bytes(519)])
@async_test
async def test_power_cut_that_takes_an_envelope_takes_the_creation(
    tmp_path: Path, mode: Mode, own: bool, left: bytes | None
) -> None:
    """Bytes that the roots, or the server, could never open are not taken: the upload is as if it had not been."""
    kit = StoreKit(tmp_path, mode=mode)
    _, upload = await kit.create(10)
    paths = kit.store.layout.of(upload.id)
    _leave(paths.own_envelope(mode) if own else paths.root_envelope, left)
    kit.open()
    with pytest.raises(UploadNotFoundError):
        await kit.append(upload.id, 0, b"0123456789")
    with pytest.raises(UploadNotFoundError):
        await kit.finish(upload.id)
    await kit.store.close()


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("left", [None, b"", bytes(519)])
@async_test
async def test_power_cut_that_takes_an_envelope_leaves_nothing_to_hand_over(
    tmp_path: Path, mode: Mode, own: bool, left: bytes | None
) -> None:
    """A rotation does not make a first commit to what nobody could open: afterwards it still had never been."""
    kit = StoreKit(tmp_path, mode=mode)
    _, upload = await kit.create(10)
    paths = kit.store.layout.of(upload.id)
    await kit.store.close()
    _leave(paths.own_envelope(mode) if own else paths.root_envelope, left)
    kit.rotate_signing_key()
    kit.open()
    with pytest.raises(UploadNotFoundError):
        await kit.append(upload.id, 0, b"0123456789")
    await kit.store.close()


@pytest.mark.parametrize("mode", Mode)
@async_test
async def test_power_cut_after_a_hand_over_before_the_first_byte_loses_no_envelope(
    tmp_path: Path, mode: Mode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rotation's record is such an upload's first commit: the server's envelope is as durable as the roots'."""
    (recorded := tmp_path / "recorded").mkdir()
    kit = StoreKit(recorded, mode=mode)
    recorder = Recorder(recorded)
    monkeypatch.setattr(durable, "calls", recorder)
    client = Client(kit)
    upload_id = await client.create(3000)
    await kit.store.close()
    kit.rotate_signing_key()
    kit.open()
    await client.append(upload_id, 2000)
    await kit.store.close()
    monkeypatch.setattr(durable, "calls", UnsyncedCalls())
    medium = Medium(recorder)
    for change in recorder.journal:
        medium.apply(change)
    (left := tmp_path / "left").mkdir()
    medium.survive(left, random.Random(1), 0.0)
    await _verify_state(kit, client.sent, left, "without luck")


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", SCENARIOS)
def test_power_cut_at_many_points_loses_nothing_acknowledged(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At least as many states as asked for, half of the recordings with a kill at any call."""
    wanted = int(os.environ.get("DROPOFF_TUS_CRASH_POINTS", "2000")) // len(SCENARIOS) + 1
    seed, count, turn = os.environ.get("DROPOFF_TUS_CRASH_SEED", "1"), 0, 0
    while count < wanted:
        die_at = None if turn % 2 == 0 else random.Random(f"{seed}/{turn}").randrange(5, 60)
        count += _run(_Plan(name, 1000 if die_at is None else 40, 4, f"{seed}/{turn}", die_at), tmp_path, monkeypatch)
        turn += 1
    print(f"{name}: {count} states")  # noqa: T201 - the figure a long run is for
