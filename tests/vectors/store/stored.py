"""A store that is kept in the repository, put to use in a temporary folder."""

import json
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dropoff_tus.messages import AppendPlan
from storage.engine import FileStore, StoreSettings
from storage.keys import KeyPlaces, ServerKeys, load_server_keys, read_identity_file
from tests.support.store_kit import BytesBody

FOLDER = Path(__file__).parent / "v1"
"""The store of format version 1."""
_ROOTS = ("root-x25519.txt", "root-hybrid.txt")


def plaintext(size: int) -> bytes:
    """Return the content of the fixtures that are not the worked example: bytes without a short period."""
    return bytes(place * place % 251 for place in range(size))


def places(folder: Path) -> KeyPlaces:
    """Return where a stored server's keys lie."""
    secrets = folder / "secrets"
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


@dataclass(frozen=True, slots=True)
class StoredServer:
    """A copy of the stored server."""

    folder: Path
    keys: ServerKeys
    store: FileStore
    identities: tuple[str, ...]

    @classmethod
    def copied_to(cls, folder: Path, *, uploads: bool = True) -> "StoredServer":
        """Copy it below a folder: with its uploads, or its keys alone."""
        shutil.copytree(FOLDER / "secrets", folder / "secrets")
        if uploads:
            for name in ("store", "keys"):
                shutil.copytree(FOLDER / name, folder / name)
        # Git does not keep who may read a file.
        for path in (folder / "secrets").rglob("*"):
            path.chmod(0o700 if path.is_dir() else 0o600)
        identities = tuple(text for name in _ROOTS for text in read_identity_file(FOLDER / "secrets" / name))
        return cls._opened(folder, identities)

    @classmethod
    def _opened(cls, folder: Path, identities: tuple[str, ...]) -> "StoredServer":
        settings = StoreSettings(folder / "store", folder / "keys", (), durability="os", free_space_floor_bytes=0)
        keys = load_server_keys(places(folder))
        return cls(folder, keys, FileStore(settings, keys), identities)

    def reopened(self) -> "StoredServer":
        """Return what a new process would find."""
        return self._opened(self.folder, self.identities)

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
