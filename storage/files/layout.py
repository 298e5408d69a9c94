"""Where an upload's files lie. Names consist only of ids; nothing a client chose is ever a path.

Source: docs/reference/format.md, Files.
"""

import functools
from dataclasses import dataclass
from pathlib import Path

from dropoff_tus.model import Mode
from storage.backing import KeyFile

NEW_SUFFIX = ".new"
"""The suffix of a file that is written beside the one it will replace."""


@dataclass(frozen=True, slots=True)
class UploadPaths:
    """The files of one upload."""

    folder: Path
    data: Path
    log: Path
    keys_folder: Path
    root_envelope: Path
    ingest_envelope: Path
    receipt: Path

    def key_file(self, kind: KeyFile) -> Path:
        """Where one of the key files lies."""
        return {
            KeyFile.ROOT: self.root_envelope,
            KeyFile.INGEST: self.ingest_envelope,
            KeyFile.RECEIPT: self.receipt,
        }[kind]

    def own_envelope(self, mode: Mode) -> Path:
        """Where the envelope lies that the server opens; a sealed upload's is in no backup, and removed at the end."""
        return self.key_file(KeyFile.own(mode))

    @property
    def new_log(self) -> Path:
        """Where a log is written that will replace this one."""
        return self.folder / f"log{NEW_SUFFIX}"

    @property
    def torn_log(self) -> Path:
        """Where a torn tail of the log is set aside."""
        return self.folder / "log.torn"

    @property
    def damaged_log(self) -> Path:
        """Where the log of a shredded upload that did not verify is kept."""
        return self.folder / "log.damaged"

    @property
    def key_files(self) -> tuple[Path, ...]:
        """Everything to shred, the envelopes first; then what a crash may have left beside those that are replaced."""
        replaced = (self.root_envelope, self.receipt)
        left = tuple(path.with_name(path.name + NEW_SUFFIX) for path in replaced)
        return (self.root_envelope, self.ingest_envelope, self.receipt, *left)


@dataclass(frozen=True, slots=True)
class Layout:
    """The store's folders: ciphertext and logs, wrapped keys, and the server's keys to sealed uploads in progress."""

    root: Path
    keys_dir: Path
    ingest_dir: Path

    @property
    def uploads(self) -> Path:
        """The folder of all uploads."""
        return self.root / "uploads"

    @property
    def servers(self) -> Path:
        """The folder of the sockets by which servers on this store ask one another."""
        return self.root / "servers"

    @property
    def roots(self) -> tuple[Path, ...]:
        """The folders that may be links; files and folders below them may not."""
        return (self.uploads, self.keys_dir, self.ingest_dir)

    def log_of(self, upload_id: str) -> Path:
        """Return only the path of a log, quicker than `of` for very many uploads."""
        return Path(f"{self.root}/uploads/{upload_id[:2]}/{upload_id}/log")

    @functools.lru_cache(maxsize=1024)  # noqa: B019 - one object a process; paths cost more to make than to keep
    def of(self, upload_id: str) -> UploadPaths:
        """Return the paths of an upload whose id has been validated."""
        folder = self.uploads / upload_id[:2] / upload_id
        keys = self.keys_dir / upload_id[:2]
        return UploadPaths(
            folder=folder,
            data=folder / "data",
            log=folder / "log",
            keys_folder=keys,
            root_envelope=keys / f"{upload_id}.age",
            ingest_envelope=self.ingest_dir / f"{upload_id}.age",
            receipt=keys / f"{upload_id}.receipt",
        )
