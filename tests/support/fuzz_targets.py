"""Every parser of bytes that others may have written, with inputs to start from. Each raises only what it documents."""

import asyncio
import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from dropoff_tus import wire
from dropoff_tus.errors import DropoffError, KeyMissingError, UploadDamagedError, UploadNotFoundError
from storage import age
from storage.age import AgeError, Identity, KeyType, bech32
from storage.files.chains import LogFile
from storage.files.durable import Disk
from storage.keyring.envelope import open_envelope
from storage.keyring.keysource import KeySourceError
from storage.keyring.lines import sign_line
from storage.keyring.signing import SigningKeyFile, new_signing_key
from storage.uploads.log import LogState, sign_receipt, verify_receipt
from storage.uploads.recovery import check_unchanged, read_chain, read_state
from tests.support.store_kit import StoreKit

_DROP_ID = "3f0c5f4a-8d1c-4c44-9a37-0f5f3f0c5f4a"
_PIECES = (b"hello", b"world")


@dataclass(frozen=True, slots=True)
class Target:
    """A parser: `run` returns if all is as documented, and `seeds` are inputs it takes."""

    run: Callable[[bytes], None]
    seeds: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class _Upload:
    """An upload in the middle: its log and envelope, and what was acknowledged."""

    kit: StoreKit
    state: LogState
    log: bytes
    envelope: bytes


def make_targets(folder: Path) -> dict[str, Target]:
    """Return all targets by name; the seeds of the store come from a real one below `folder`."""
    upload = asyncio.run(_upload(folder))
    identities = [Identity.generate(kind) for kind in KeyType]
    files = [age.encrypt(b"x" * size, [identity.recipient]) for identity in identities for size in (0, 70_000)]
    texts = [identity.secret_text() for identity in identities]
    return {
        "age-header": Target(_age_header, [blob[: age.parse_header(blob).length] for blob in files]),
        "age-file": Target(lambda data: _age_file(data, identities), files),
        "identity-file": Target(_identity_file, [f"# made by hand\n\n{text}\r\n".encode() for text in texts]),
        "recipient": Target(_recipient, [str(identity.recipient).encode() for identity in identities]),
        "signing-key": Target(_signing_key, [SigningKeyFile(new_signing_key(), (bytes(32),)).text().encode()]),
        "log": Target(lambda data: _log(data, upload), [upload.log]),
        "envelope": Target(lambda data: _envelope(data, upload), [upload.envelope]),
        "envelope-content": Target(lambda data: _envelope_content(data, upload), [_content(upload)]),
        "receipt": Target(lambda data: _receipt(data, upload), [_receipt_line(upload)]),
        "headers": Target(_headers, [_HEADERS]),
    }


async def _upload(folder: Path) -> _Upload:
    kit = StoreKit(folder)
    _, stored = await kit.create(None)
    offset = 0
    for piece in _PIECES:
        offset = await kit.append(stored.id, offset, piece)
    async with kit.store.lease(stored.id) as lease:
        await lease.declare_length(100, datetime.now(UTC))
    await kit.append(stored.id, offset, b"!")
    paths = kit.store.layout.of(stored.id)
    return _Upload(kit, kit.store.load(stored.id), paths.log.read_bytes(), paths.root_envelope.read_bytes())


# ---- age -------------------------------------------------------------------------------------------------------


def _age_header(data: bytes) -> None:
    with contextlib.suppress(AgeError):
        header = age.parse_header(data)
        # A text that parses is written in one way only.
        written = b"".join(stanza.serialize() for stanza in header.stanzas)
        assert data[: header.length].startswith(b"age-encryption.org/v1\n" + written + b"--- ")


def _age_file(data: bytes, identities: list[Identity]) -> None:
    for only_native in (False, True):
        with contextlib.suppress(AgeError):
            plain = age.decrypt(data, identities, only_native=only_native)
            assert set(plain) <= set(b"x"), "another content than was sealed"


def _identity_file(data: bytes) -> None:
    text = data.decode("latin-1")
    try:
        age.parse_identity_file(text)
    except AgeError as error:
        _shows_nothing_of(text, str(error))


def _recipient(data: bytes) -> None:
    text = data.decode("latin-1")
    try:
        assert str(age.Recipient.parse(text)) == text.lower()
    except AgeError as error:
        _shows_nothing_of(text, str(error))
    with contextlib.suppress(AgeError):
        prefix, raw = bech32.decode(text)
        assert bech32.encode(prefix, raw) == text


def _signing_key(data: bytes) -> None:
    text = data.decode("latin-1")
    try:
        SigningKeyFile.parse(text)
    except KeySourceError as error:
        _shows_nothing_of(text, str(error))


def _shows_nothing_of(text: str, message: str) -> None:
    """Check that no line, which may be a secret in the wrong place, is in the message."""
    for line in text.split("\n"):
        assert len(line) < 20 or line not in message


# ---- the store -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _file_of(data: bytes) -> Iterator[LogFile]:
    with tempfile.TemporaryFile(buffering=0) as file:
        os.pwrite(file.fileno(), data, 0)
        yield LogFile(Disk(sync=False), file.fileno())


def _log(data: bytes, upload: _Upload) -> None:
    key, upload_id = upload.kit.keys.signing, upload.state.id
    with _file_of(data) as log:
        with contextlib.suppress(UploadDamagedError, UploadNotFoundError, KeyMissingError):
            state, torn = read_state(log, upload_id, key)
            # It looks at the first line and the last whole one; both are as they were written.
            whole = data[: state.log_bytes]
            lines = upload.log.splitlines(keepends=True)
            assert whole.startswith(lines[0])
            assert whole.endswith(tuple(lines))
            assert torn == len(data) - state.log_bytes
        for every_signature in (False, True):
            with contextlib.suppress(UploadDamagedError, UploadNotFoundError, KeyMissingError):
                chain = read_chain(log, upload_id, key, every_signature=every_signature)
                assert upload.log.startswith(data[: chain.state.log_bytes])
        with contextlib.suppress(UploadDamagedError):
            check_unchanged(log, upload.state)
            assert data == upload.log


def _content(upload: _Upload) -> bytes:
    return age.decrypt(upload.envelope, [Identity.parse(text) for text in upload.kit.identities])


def _envelope(data: bytes, upload: _Upload) -> None:
    identities = [Identity.parse(text) for text in upload.kit.identities]
    with contextlib.suppress(UploadDamagedError, KeyMissingError):
        envelope = open_envelope(data, identities, upload.state)
        assert envelope.commitment() == upload.state.create["commitment"]


def _envelope_content(data: bytes, upload: _Upload) -> None:
    """Recipients are public: anybody who can write to the folder can seal any content."""
    identity = Identity.parse(upload.kit.identities[0])
    _envelope(age.encrypt(data, identity.recipient), upload)


def _receipt_line(upload: _Upload) -> bytes:
    return sign_receipt({"v": 1, "upload": upload.state.id, "path": "a b", "length": 11}, upload.kit.keys.signing)


def _receipt(data: bytes, upload: _Upload) -> None:
    payload = verify_receipt(data, upload.kit.keys.signing)
    assert payload is None or sign_receipt(payload, upload.kit.keys.signing).removesuffix(b"\n") == data.removesuffix(
        b"\n"
    )
    # A line of a log is not a receipt, whoever signed it.
    line = sign_line({"v": 1}, upload.kit.keys.signing)
    assert verify_receipt(line, upload.kit.keys.signing) is None


# ---- requests --------------------------------------------------------------------------------------------------

_HEADERS = b"\n".join(
    (
        b"Tus-Resumable: 1.0.0",
        b"Upload-Length: 10",
        b"Upload-Metadata: filename YS5iaW4=,sha256 " + b"MDEy" * 14,
        b"Upload-Concat: final;/files/" + _DROP_ID.encode() + b"/" + b"0" * 32,
        b"Upload-Checksum: sha1 AAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        b"Upload-Offset: 5",
        b"Upload-Defer-Length: 1",
        b"Content-Type: application/offset+octet-stream",
        b"Content-Length: 5",
        b"Dropoff-Code: ABCD-EFGH-JKMN-PQRS",
        b"X-HTTP-Method-Override: PATCH",
    )
)


def _headers(data: bytes) -> None:
    """Headers as a server hands them over: a name, a colon, a value."""
    pairs = [line.partition(":") for line in data.decode("latin-1").split("\n")]
    headers = [(name, value.strip(" \t")) for name, _, value in pairs]
    # Each header also by itself: the first wrong one hides the others.
    for some in (headers, *([pair] for pair in headers)):
        presented = wire.presented_code(some)
        for read in (
            lambda some=some, presented=presented: wire.parse_create(some, drop_id=_DROP_ID, presented=presented),
            lambda some=some: wire.parse_patch(some),
            lambda some=some: wire.effective_method("POST", some, on_upload=True),
            lambda some=some: wire.check_version("POST", some),
            lambda some=some: wire.check_sizes(some),
        ):
            with contextlib.suppress(DropoffError):
                read()
