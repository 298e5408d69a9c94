"""Receipts: their content and readers, and that nothing unchecked gets one."""

import base64
import dataclasses
import hashlib
import json
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from dropoff_tus.errors import KeyMissingError
from dropoff_tus.model import Mode, Role
from storage.files.chains import FileChains, LogFile
from storage.keyring.identities import generate_root_identity, read_identity_file
from storage.keyring.keys import generate_server_keys
from storage.uploads import reading
from tests.support.aio import async_test
from tests.support.programs import CURRENT_AGE, require_program
from tests.support.store_kit import StoreKit

CONTENT = b"0123456789" * 10
KEY_TYPES = ["x25519", "hybrid"]
_DOMAIN = b"dropoff-tus/receipt/v1\n"


async def _finished(kit: StoreKit, *, name: bytes = b"a name.txt") -> tuple[str, str]:
    """Upload and finish; return token and id."""
    token, upload = await kit.create(len(CONTENT), name=name)
    await kit.append(upload.id, 0, CONTENT)
    await kit.finish(upload.id)
    return token, upload.id


def _verified(line: bytes, public: bytes) -> dict[str, Any]:
    """Check a receipt as docs/reference/format.md says, with no code of ours."""
    text, _, signature = line.removesuffix(b"\n").rpartition(b" ")
    assert not signature.endswith(b"=")
    Ed25519PublicKey.from_public_bytes(public).verify(
        base64.b64decode(signature + b"=" * (-len(signature) % 4)), _DOMAIN + text
    )
    payload: dict[str, Any] = json.loads(text)
    assert json.dumps(payload, sort_keys=True, separators=(",", ":")).encode() == text
    return payload


def _decrypted(age: Path, identity: Path, file: Path) -> bytes:
    return subprocess.run([age, "-d", "-i", identity, file], capture_output=True, check=True).stdout


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("key_type", KEY_TYPES)
@async_test
async def test_receipt_says_what_the_format_says(tmp_path: Path, key_type: str, mode: Mode) -> None:
    """Every member, from the log's lines and the content themselves."""
    kit = StoreKit(tmp_path, key_type=key_type, mode=mode)
    token, upload_id = await _finished(kit)
    line = await kit.store.url_receipt(upload_id, token)
    assert line is not None
    payload = _verified(line, kit.keys.signing.public_bytes)
    first, *_, final = kit.store.layout.of(upload_id).log.read_bytes().splitlines(keepends=True)
    final_hash = hashlib.sha256(final).hexdigest()
    assert payload == {
        "v": 1,
        "receipt": hashlib.sha256(b"dropoff-tus/receipt-id/v1\n" + final_hash.encode()).hexdigest()[:32],
        "key": hashlib.sha256(kit.keys.signing.public_bytes).hexdigest()[:16],
        "drop": kit.drop_id,
        "upload": upload_id,
        "path": "a name.txt",
        "length": len(CONTENT),
        "created_at": json.loads(first.rpartition(b" ")[0])["at"],
        "completed_at": json.loads(final.rpartition(b" ")[0])["at"],
        "final": final_hash,
        "sha256": hashlib.sha256(CONTENT).hexdigest(),
    }
    assert await kit.store.receipt(upload_id, kit.identities) == payload


@async_test
async def test_receipt_of_a_name_that_is_no_text_has_its_bytes(tmp_path: Path) -> None:
    """The client's name is neither lost nor guessed."""
    kit = StoreKit(tmp_path)
    _, upload_id = await _finished(kit, name=b"\xffname")
    payload = await kit.store.receipt(upload_id)
    assert payload is not None
    assert payload["path"] == "\ufffdname"
    assert base64.b64decode(payload["path_base64"]) == b"\xffname"


@async_test
async def test_receipt_with_a_changed_byte_does_not_verify(tmp_path: Path) -> None:
    """The signature is over all of it, under the receipts' own domain."""
    kit = StoreKit(tmp_path)
    token, upload_id = await _finished(kit)
    line = await kit.store.url_receipt(upload_id, token)
    assert line is not None
    with pytest.raises(InvalidSignature):
        _verified(line.replace(b'"length":100', b'"length":101'), kit.keys.signing.public_bytes)


@pytest.mark.parametrize("key_type", KEY_TYPES)
@async_test
async def test_receipt_of_a_drop_off_with_its_own_recipients_is_theirs(tmp_path: Path, key_type: str) -> None:
    """The configured root opens neither the upload nor its receipt."""
    own = generate_root_identity(tmp_path / "own.txt", key_type)
    kit = StoreKit(tmp_path, key_type=key_type, mode=Mode.SEALED, recipients=(own,))
    _, upload_id = await _finished(kit)
    payload = await kit.store.receipt(upload_id, read_identity_file(tmp_path / "own.txt"))
    assert payload is not None
    assert payload["path"] == "a name.txt"
    assert await kit.store.receipt(upload_id, kit.identities) is None


@async_test
async def test_receipt_of_a_sealed_upload_is_closed_to_the_server(tmp_path: Path) -> None:
    """No key of the server opens either copy; the root opens one, the token the other."""
    kit = StoreKit(tmp_path, mode=Mode.SEALED)
    token, upload_id = await _finished(kit)
    kit.open()
    assert await kit.store.receipt(upload_id) is None
    assert await kit.store.receipt(upload_id, kit.identities) is not None
    assert await kit.store.url_receipt(upload_id, token) is not None


def _chacha20(key: str, nonce: bytes, sealed: bytes) -> bytes:
    """Return the text: the cipher's first block makes the key of the tag."""
    command = [str(require_program("openssl")), "enc", "-d", "-chacha20", "-K", key, "-iv", f"01000000{nonce.hex()}"]
    return subprocess.run(command, input=sealed, capture_output=True, check=True).stdout


@pytest.mark.parametrize("key_type", KEY_TYPES)
@async_test
async def test_receipt_opens_with_age_and_openssl(tmp_path: Path, key_type: str) -> None:
    """The token gives its key as format.md derives it, and so does the envelope to whoever has a root identity."""
    kit = StoreKit(tmp_path, key_type=key_type, mode=Mode.SEALED)
    token, upload_id = await _finished(kit)
    paths = kit.store.layout.of(upload_id)
    secret = HKDF(hashes.SHA256(), 32, b"", b"dropoff-tus/receipt-key/v1\n").derive(token.encode())
    age = require_program("age" if key_type == "x25519" else CURRENT_AGE)
    opened = json.loads(_decrypted(age, tmp_path / "root.txt", paths.root_envelope))
    assert opened["receipt"] == secret.hex()
    head, blob = b"dropoff-tus receipt 2\n", paths.receipt.read_bytes()
    assert blob.startswith(head)
    nonce, sealed = blob[len(head) : len(head) + 12], blob[len(head) + 12 :]
    line = await kit.store.url_receipt(upload_id, token)
    assert ChaCha20Poly1305(secret).decrypt(nonce, sealed, None) == line
    assert _chacha20(opened["receipt"], nonce, sealed[:-16]) == line


@pytest.mark.parametrize("lost", ["envelope", "identity"])
@async_test
async def test_sealed_upload_without_receipt_whose_key_is_missing_is_not_complete(tmp_path: Path, lost: str) -> None:
    """Neither a lost envelope nor a lost identity is `sealed earlier`."""
    kit = StoreKit(tmp_path, mode=Mode.SEALED)
    _, upload = await kit.create(len(CONTENT))
    await kit.append(upload.id, 0, CONTENT)
    async with kit.store.lease(upload.id) as lease:
        await lease.write_final(datetime.now(UTC))
    if lost == "envelope":
        kit.store.layout.of(upload.id).ingest_envelope.unlink()
    else:
        kit.places = dataclasses.replace(
            kit.places, managed_identity=generate_server_keys(tmp_path / "other").managed_identity
        )
    kit.open()
    async with kit.store.lease(upload.id) as lease:
        with pytest.raises(KeyMissingError):
            await lease.complete({}, datetime.now(UTC))
    assert not kit.store.layout.of(upload.id).receipt.exists()


@async_test
async def test_receipts_again_are_the_same_line_also_with_one_copy_lost(tmp_path: Path) -> None:
    """A crash between the two copies is followed by the same receipt."""
    kit = StoreKit(tmp_path)
    token, upload_id = await _finished(kit)
    line = await kit.store.url_receipt(upload_id, token)
    kit.store.layout.of(upload_id).receipt.unlink()
    kit.open()
    await kit.finish(upload_id)
    assert await kit.store.url_receipt(upload_id, token) == line
    assert await kit.store.receipt(upload_id) is not None


@async_test
async def test_partial_has_no_receipt(tmp_path: Path) -> None:
    """Receipts are for what partials become."""
    kit = StoreKit(tmp_path)
    _, part = await kit.create(0, role=Role.PARTIAL)
    await kit.finish(part.id)
    assert [path.name for path in kit.store.layout.of(part.id).keys_folder.glob("*receipt*")] == []


@async_test
async def test_read_back_goes_in_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread is let go of now and then, and the digest is that of the whole."""
    monkeypatch.setattr(reading, "_STEP_BYTES", 1 << 20)
    kit = StoreKit(tmp_path)
    data = bytes(3 << 20) + b"end"
    _, upload = await kit.create(len(data))
    await kit.append(upload.id, 0, data)
    store = kit.open()
    found = reading.ReadBack(store._base, store.load(upload.id), {"sha256"})  # noqa: SLF001 - the room itself
    answers = [found.step() for _ in range(4)]
    found.close()
    assert answers == [None, None, None, {"sha256": hashlib.sha256(data).digest()}]


@async_test
async def test_looking_at_uploads_reads_each_log_and_envelope_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list of thousands costs no more; what cannot be read is told of each, and keeps nobody from the others."""
    kit = StoreKit(tmp_path, mode=Mode.MANAGED)
    _, done = await _finished(kit)
    _, begun = await kit.create(10, name=b"begun.txt")
    _, broken = await _finished(kit)
    kit.store.layout.of(broken).receipt.write_bytes(b"nothing")
    store, read, opened = kit.open(), list[str](), FileChains.open

    def counted(chains: FileChains, upload_id: str, *, aside: bool = False) -> LogFile:
        read.append(upload_id)
        return opened(chains, upload_id, aside=aside)

    monkeypatch.setattr(FileChains, "open", counted)
    seen = await store.look([done, begun.id, "0" * 32, broken])
    assert read == [done, begun.id, "0" * 32, broken]
    assert [one.stored is not None for one in seen] == [True, True, False, True]
    assert [None if one.metadata is None else one.metadata.filename for one in seen] == [
        "a name.txt", "begun.txt", None, "a name.txt",
    ]  # fmt: skip
    assert seen[0].receipt == await store.receipt(done)
    assert seen[0].signed_receipt == await store.signed_receipt(done)
    assert [type(one.problem).__name__ for one in seen] == [
        "NoneType", "NoneType", "UploadNotFoundError", "UploadDamagedError",
    ]  # fmt: skip
    await store.close()
