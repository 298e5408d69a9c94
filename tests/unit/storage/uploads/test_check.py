"""`store check` on envelopes and receipts that somebody changed: without a key as far as can be seen, else with one."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from dropoff_tus.model import Mode
from storage.age import Identity, KeyType, Wrapper, encrypt
from storage.files.layout import UploadPaths
from storage.keyring.envelope import open_envelope
from storage.keyring.identities import parse_identities
from storage.keyring.journal import JOURNAL
from storage.uploads.maintenance.check import Depth, check_store
from tests.support.aio import async_test
from tests.support.store_kit import StoreKit

_STRANGER = Identity.generate(KeyType.X25519).recipient


async def _problem(kit: StoreKit, upload_id: str, *, with_roots: bool = False) -> str | None:
    depth = Depth(quick=True, identities=tuple(kit.identities) if with_roots else ())
    (finding,) = [one async for one in check_store(kit.open(), [upload_id], depth)]
    return finding.problem


async def _two(kit: StoreKit, *, finish: bool) -> tuple[UploadPaths, UploadPaths, str]:
    """Make two uploads; return the paths of both and the id of the first."""
    made = []
    for content in (b"12345", b"67890"):
        _, upload = await kit.create(5 if finish else 10)
        await kit.append(upload.id, 0, content)
        if finish:
            await kit.finish(upload.id)
        made.append(upload.id)
    mine, other = (kit.store.layout.of(one) for one in made)
    return mine, other, made[0]


_FORGED: dict[str, Callable[[bytes], bytes]] = {
    "garbage": lambda raw: bytes(reversed(raw)),
    "nothing": lambda _raw: b"",
    "cut": lambda raw: raw[:-1],
    "longer": lambda raw: raw + b"x",
    "to a stranger": lambda _raw: encrypt(b"{}", _STRANGER),
}


@pytest.mark.parametrize("forged", [*_FORGED, "another's"])
@pytest.mark.parametrize(
    ("mode", "finish"), [(Mode.MANAGED, True), (Mode.MANAGED, False), (Mode.SEALED, False)], ids=str
)
@async_test
async def test_check_without_a_key_sees_a_servers_envelope_that_was_changed(
    tmp_path: Path, mode: Mode, finish: bool, forged: str
) -> None:
    """The create record has its hash, wherever the envelope lies."""
    kit = StoreKit(tmp_path, mode=mode, durability="os")
    mine, other, upload_id = await _two(kit, finish=finish)
    place = mine.own_envelope(mode)
    assert await _problem(kit, upload_id) is None
    raw = place.read_bytes()
    place.write_bytes(other.own_envelope(mode).read_bytes() if forged == "another's" else _FORGED[forged](raw))
    for with_roots in (False, True):
        problem = await _problem(kit, upload_id, with_roots=with_roots)
        assert problem is not None
        if mode is Mode.SEALED or not with_roots:
            whose = "the server's" if mode is Mode.SEALED else "its"
            assert f"{whose} envelope is not the one that was written" in problem
    place.write_bytes(raw)
    assert await _problem(kit, upload_id) is None


@pytest.mark.parametrize("mode", Mode)
@async_test
async def test_check_without_a_key_sees_who_an_envelope_is_for(tmp_path: Path, mode: Mode) -> None:
    """The server's stanza is in that of a managed upload and in no other, whatever the journal of rotations says."""
    kit = StoreKit(tmp_path, mode=mode, durability="os")
    mine, _, upload_id = await _two(kit, finish=True)
    identities, own = parse_identities(kit.identities), kit.keys.managed
    envelope = open_envelope(mine.root_envelope.read_bytes(), identities, kit.store.load(upload_id))
    roots = [identity.recipient for identity in identities]
    cases: list[tuple[list[Wrapper], bool]] = [
        ([*roots, *own], mode is Mode.SEALED),
        ([*roots], mode is Mode.MANAGED),
        ([*own], True),
    ]
    for readers, wrong in cases:
        blob = envelope.seal(readers)
        mine.root_envelope.write_bytes(blob)
        line = f"{upload_id} {'0' * 64} {hashlib.sha256(blob).hexdigest()}\n"
        (tmp_path / "keys" / JOURNAL).write_text(line)
        assert ("its envelope is not the one that was written" in str(await _problem(kit, upload_id))) is wrong


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize(
    "forged",
    [
        lambda _raw: b"garbage",
        lambda _raw: b"",
        lambda raw: raw[:-1:2],
        lambda _raw: encrypt(b"{}", _STRANGER),
    ],
    ids=["garbage", "nothing", "every second byte", "an age file"],
)
@async_test
async def test_check_without_a_key_sees_that_a_receipt_is_none(
    tmp_path: Path, mode: Mode, forged: Callable[[bytes], bytes]
) -> None:
    """It begins as one."""
    kit = StoreKit(tmp_path, mode=mode, durability="os")
    mine, _, upload_id = await _two(kit, finish=True)
    assert await _problem(kit, upload_id) is None
    mine.receipt.write_bytes(forged(mine.receipt.read_bytes()))
    assert await _problem(kit, upload_id) == "its receipt is none; put it back from a copy"


@pytest.mark.parametrize("mode", Mode)
@async_test
async def test_check_with_a_root_sees_a_receipt_that_is_anothers_or_forged(tmp_path: Path, mode: Mode) -> None:
    """Both look right to whoever has no key; also with --quick."""
    kit = StoreKit(tmp_path, mode=mode, durability="os")
    mine, other, upload_id = await _two(kit, finish=True)
    raw = mine.receipt.read_bytes()
    for forged in (other.receipt.read_bytes(), raw[:-1] + bytes([raw[-1] ^ 1]), raw[:40]):
        mine.receipt.write_bytes(forged)
        assert await _problem(kit, upload_id) is None
        assert "its receipt was changed" in str(await _problem(kit, upload_id, with_roots=True))


@async_test
async def test_check_without_a_key_believes_no_journal_line_for_what_is_no_envelope(tmp_path: Path) -> None:
    """Somebody who writes beside the envelopes can write the journal of rotations too, which nobody signs."""
    kit = StoreKit(tmp_path, durability="os")
    mine, _, upload_id = await _two(kit, finish=True)
    mine.root_envelope.write_bytes(b"garbage")
    line = f"{upload_id} {'0' * 64} {hashlib.sha256(b'garbage').hexdigest()}\n"
    (tmp_path / "keys" / JOURNAL).write_text(line)
    assert "its envelope is not the one that was written" in str(await _problem(kit, upload_id))
