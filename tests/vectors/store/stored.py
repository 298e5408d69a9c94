"""A store that is kept in the repository, put to use in a temporary folder."""

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dropoff_tus.messages import AppendPlan
from storage.files.layout import Layout
from storage.keyring.identities import read_identity_file
from storage.keyring.keys import KeyPlaces, load_server_keys
from storage.open import FileStore, StoreSettings
from tests.support.store_kit import BytesBody

FOLDER = Path(__file__).parent / "v2"
"""The store of format version 2."""
_LAYOUT = Layout(FOLDER / "store", FOLDER / "keys", FOLDER / "secrets" / "ingest")
_ROOTS = ("root-x25519.txt", "root-hybrid.txt")


def plaintext(size: int) -> bytes:
    """Return the content of the fixtures that are not the worked example: bytes without a short period."""
    return bytes(place * place % 251 for place in range(size))


def copy_secrets(folder: Path) -> KeyPlaces:
    """Copy the stored server's keys below a folder, for the owner alone: Git does not keep who may read a file."""
    secrets = folder / "secrets"
    shutil.copytree(FOLDER / "secrets", secrets)
    for path in secrets.rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)
    return KeyPlaces(
        str(secrets / "signing-key"),
        str(secrets / "code-key"),
        str(secrets / "managed-identity.txt"),
        secrets / "ingest",
    )


def load_uploads() -> list[dict[str, Any]]:
    """Return what is known of each stored upload."""
    uploads: list[dict[str, Any]] = json.loads((FOLDER / "uploads.json").read_text())
    return uploads


class StoredServer:
    """The stored server's keys, on uploads below a folder."""

    def __init__(self, folder: Path, places: KeyPlaces) -> None:
        """Use keys from `copy_secrets`."""
        self.folder, self._places = folder, places
        self.keys = load_server_keys(places)
        self.identities = tuple(text for name in _ROOTS for text in read_identity_file(FOLDER / "secrets" / name))
        self.store = self._open()

    def _open(self) -> FileStore:
        settings = StoreSettings(
            self.folder / "store", self.folder / "keys", (), durability="os", free_space_floor_bytes=0
        )
        return FileStore(settings, self.keys)

    def reopen(self) -> None:
        """Be what a new process would find."""
        self.store = self._open()

    def copy_uploads(self, *upload_ids: str) -> None:
        """Copy uploads from the repository."""
        for upload_id in upload_ids:
            there, here = _LAYOUT.of(upload_id), self.store.layout.of(upload_id)
            shutil.copytree(there.folder, here.folder)
            here.keys_folder.mkdir(parents=True, exist_ok=True)
            for kept, path in zip(there.key_files, here.key_files, strict=True):
                if kept.exists():
                    shutil.copy(kept, path)

    async def read(self, upload_id: str, *, with_roots: bool = True) -> bytes:
        """Return the whole plaintext, opened with the roots or by the server."""
        identities = self.identities if with_roots else ()
        return b"".join([piece async for piece in self.store.read(upload_id, identities=identities)])

    async def append(self, upload_id: str, offset: int, data: bytes) -> int:
        """Append bytes."""
        async with self.store.lease(upload_id, offset=offset) as lease:
            return await lease.append(BytesBody(data), AppendPlan(offset, len(data), len(data)), idle_timeout_seconds=5)

    async def finish(self, upload_id: str) -> None:
        """Finish an upload."""
        async with self.store.lease(upload_id) as lease:
            digests = await lease.digests([], read_back_bytes=1 << 30)
            await lease.complete(digests or {}, datetime.now(UTC))
