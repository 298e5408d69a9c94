"""An upload comes back with only sh, age, dd and grep, as docs/operate/recovery.md says, for both types of key."""

import os
import subprocess
from pathlib import Path

import pytest

from dropoff_tus.model import Mode, Role
from storage.keyring.identities import generate_root_identity
from storage.uploads.maintenance.rotation import Outcome
from tests.support.aio import async_test
from tests.support.documents import run_by
from tests.support.programs import CURRENT_AGE, require_program
from tests.support.store_kit import StoreKit

SCRIPT = Path(__file__).resolve().parents[3] / "docs" / "emergency-export.sh"


def _age(key_type: str) -> Path:
    return require_program("age" if key_type == "x25519" else CURRENT_AGE)


def _export(
    kit: StoreKit, upload_id: str, identity: str = "root.txt", *, age: Path, output: str = "out"
) -> subprocess.CompletedProcess[bytes]:
    """Run the script with nothing of the project on the PATH, and neither catalog nor server keys."""
    secrets = kit.folder / "secrets"
    away = secrets.rename(kit.folder / "away")
    (command,) = run_by(__file__, "docs/operate/recovery.md")
    here = {
        "docs/emergency-export.sh": str(SCRIPT),
        "STORE_DIR": str(kit.folder / "store"),
        "KEYS_DIR": str(kit.folder / "keys"),
        "UPLOAD_ID": upload_id,
        "root-identity.txt": str(kit.folder / identity),
        "OUTPUT": str(kit.folder / output),
    }
    try:
        return subprocess.run(
            [here.get(word, word) for word in command.split()],
            capture_output=True,
            env={"PATH": "/usr/bin:/bin", "AGE": str(age)},
            cwd=kit.folder,
            check=False,
            timeout=60,
        )
    finally:
        away.rename(secrets)


@pytest.mark.parametrize("key_type", ["x25519", "hybrid"])
@async_test
async def test_sealed_upload_of_several_segments_comes_back(tmp_path: Path, key_type: str) -> None:
    """Byte for byte, checked against its receipt; also after the roots were rotated, then only with the new one."""
    age = _age(key_type)
    kit = StoreKit(tmp_path, key_type=key_type, mode=Mode.SEALED)
    data = os.urandom(200_000)
    _, upload = await kit.create(len(data))
    for start in range(0, len(data), 70_000):
        await kit.append(upload.id, start, data[start : start + 70_000])
    await kit.finish(upload.id)
    done = _export(kit, upload.id, age=age)
    assert done.returncode == 0, done.stderr
    assert (kit.folder / "out").read_bytes() == data
    assert b"is that of the receipt" in done.stderr
    root = generate_root_identity(tmp_path / "new.txt", key_type)
    with kit.store.rewrapper(kit.identities) as rewrapper:
        assert rewrapper.rewrap(upload.id, [root]).outcome is Outcome.REWRAPPED
    assert _export(kit, upload.id, age=age, output="old").returncode == 1
    assert _export(kit, upload.id, "new.txt", age=age, output="new").returncode == 0
    assert (kit.folder / "new").read_bytes() == data


@pytest.mark.parametrize("key_type", ["x25519", "hybrid"])
@async_test
async def test_concatenation_comes_back_in_the_order_of_its_parts(tmp_path: Path, key_type: str) -> None:
    """Each part has its own envelope and data; an empty one is no obstacle."""
    kit = StoreKit(tmp_path, key_type=key_type)
    pieces, parts = [os.urandom(70_000), b"", b"end"], []
    for piece in pieces:
        _, part = await kit.create(len(piece), role=Role.PARTIAL)
        if piece:
            await kit.append(part.id, 0, piece)
        await kit.finish(part.id)
        parts.append(part.id)
    _, final = await kit.create(None, role=Role.FINAL, parts=parts)
    await kit.finish(final.id)
    done = _export(kit, final.id, age=_age(key_type))
    assert done.returncode == 0, done.stderr
    assert (kit.folder / "out").read_bytes() == b"".join(pieces)


@async_test
async def test_nothing_a_client_chose_is_taken_for_a_key(tmp_path: Path) -> None:
    """Metadata that looks like an identity, by itself or in quotes, spoils nothing; nor does an odd output's name."""
    kit = StoreKit(tmp_path)
    odd = ("AGE-SECRET-KEY-1EVIL", '"identity":"AGE-SECRET-KEY-1EVIL"', '"receipt":"AGE-SECRET-KEY-1EVIL"')
    _, upload = await kit.create(5, more=[(key, key.encode()) for key in odd], name=odd[1].encode())
    await kit.append(upload.id, 0, b"12345")
    await kit.finish(upload.id)
    output = r"an odd\name\t of 'it'"
    done = _export(kit, upload.id, age=_age("x25519"), output=output)
    assert done.returncode == 0, done.stderr
    assert b"is that of the receipt" in done.stderr
    assert (kit.folder / output).read_bytes() == b"12345"


@async_test
async def test_unfinished_upload_gives_what_was_acknowledged(tmp_path: Path) -> None:
    """A line that a crash cut in two, and bytes past the last commit, are left out."""
    kit = StoreKit(tmp_path)
    _, upload = await kit.create(100)
    await kit.append(upload.id, 0, b"acknowledged")
    paths = kit.store.layout.of(upload.id)
    with paths.log.open("ab") as log, paths.data.open("ab") as data:
        log.write(b'{"segs":[{"cl":50,"co":196,"h":')
        data.write(bytes(50))
    done = _export(kit, upload.id, age=_age("x25519"))
    assert done.returncode == 0, done.stderr
    assert b"not finished" in done.stderr
    assert (kit.folder / "out").read_bytes() == b"acknowledged"


@async_test
async def test_damage_a_wrong_identity_and_mistakes_leave_no_output(tmp_path: Path) -> None:
    """Nothing that is not whole gets the output's name, and no key lies about."""
    age = _age("x25519")
    kit = StoreKit(tmp_path)
    _, upload = await kit.create(5)
    await kit.append(upload.id, 0, b"12345")
    await kit.finish(upload.id)
    generate_root_identity(tmp_path / "stranger.txt", "x25519")
    assert b"does not open" in _export(kit, upload.id, "stranger.txt", age=age).stderr
    assert b"no upload" in _export(kit, "0" * 32, age=age).stderr
    assert b"hex digits" in _export(kit, "../x", age=age).stderr
    assert b"exists already" in _export(kit, upload.id, age=age, output="root.txt").stderr
    (kit.folder / "mine.part").write_bytes(b"mine")
    assert b"mine.part exists already" in _export(kit, upload.id, age=age, output="mine").stderr
    assert (kit.folder / "mine.part").read_bytes() == b"mine"
    data = kit.store.layout.of(upload.id).data
    raw = bytearray(data.read_bytes())
    raw[-1] ^= 1
    data.write_bytes(raw)
    assert b"does not decrypt" in _export(kit, upload.id, age=age).stderr
    assert not (kit.folder / "out").exists()
    assert not (kit.folder / "out.part").exists()
