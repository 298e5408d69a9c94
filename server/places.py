"""Where the configuration says that keys, store and catalog are, and whether they are ours to work on."""

import errno
import os
from dataclasses import dataclass
from pathlib import Path

from server.settings.config import Config
from storage.catalog import catalog_file
from storage.files.durable import sync_folder
from storage.files.layout import Layout
from storage.files.marker import NAME
from storage.files.owner import check_owner
from storage.keyring.keys import KeyPlaces
from storage.keyring.keysource import KeySourceError, check_owner_only, read_source, source_file

_LEAST_BYTES = 1 << 20
"""For the envelopes of an upload and what the catalog writes of it, with room for others that come meanwhile."""
_LEAST_INODES = 16
"""An upload makes four files and up to two folders."""

__all__ = ["KeySourceError", "check_owner_only", "check_whose", "key_places", "layout_of", "read_source"]


def key_places(config: Config) -> KeyPlaces:
    """Return the sources of the keys that the configuration names."""
    keys = config.keys
    return KeyPlaces(
        signing_key=str(keys.signing_key),
        code_key=str(keys.code_key),
        managed_identity=str(keys.managed_identity),
        ingest_dir=Path(keys.ingest_dir),
    )


def key_files(config: Config) -> list[Path]:
    """Return the files that the server's secret keys are read from, where they are files."""
    places = key_places(config)
    sources = {
        "signing-key": places.signing_key,
        "code-key": places.code_key,
        "managed-identity": places.managed_identity,
    }
    return [file for name, source in sources.items() if (file := source_file(name, source)) is not None]


def layout_of(config: Config) -> Layout:
    """Return where the configuration says that the store's folders are."""
    return Layout(Path(config.store.dir), Path(config.store.keys_dir), Path(config.keys.ingest_dir))


def why_unsynced(config: Config) -> str | None:
    """Say what to do where a file system syncs no folders, which would make empty what clients are promised."""
    if config.store.durability != "fsync":
        return None
    for setting, folder in _written(config).items():
        try:
            sync_folder(folder)
        except OSError as error:
            name = errno.errorcode.get(error.errno or 0)
            return (
                f"{setting}: {error.filename} cannot be synced ({name}, {error.strerror}), so a power cut could take "
                "files from it that clients believe to be safe. Nothing was changed. Put it on a file system that "
                'syncs folders, or write store.durability = "os" to accept that'
            )
    return None


def shortages(config: Config) -> list[str]:
    """Name each volume on which no upload could begin, for want of space or of inodes.

    That of `store.dir` has a floor of its own beside (`Store.free_bytes`).

    Raises:
        OSError: A folder cannot be looked at.
    """
    found = []
    for volume in volumes(config):
        if volume.free_bytes < _LEAST_BYTES:
            found.append(f"the volume of {' and '.join(volume.settings)} is full")
        if volume.free_inodes is not None and volume.free_inodes < _LEAST_INODES:
            found.append(f"the volume of {' and '.join(volume.settings)} has no inodes left")
    return found


@dataclass(frozen=True, slots=True)
class Volume:
    """One volume that we write to, for what these settings name. Some file systems have no number of inodes."""

    settings: tuple[str, ...]
    total_bytes: int
    free_bytes: int
    free_inodes: int | None


def volumes(config: Config) -> list[Volume]:
    """Return the volumes that the server writes to.

    Raises:
        OSError: A folder cannot be looked at.
    """
    shared: dict[int, tuple[Path, list[str]]] = {}
    for setting, folder in _written(config).items():
        shared.setdefault(folder.stat().st_dev, (folder, []))[1].append(setting)
    found = []
    for folder, settings in shared.values():
        of = os.statvfs(folder)
        inodes = of.f_favail if of.f_files else None
        found.append(Volume(tuple(settings), of.f_blocks * of.f_frsize, of.f_bavail * of.f_frsize, inodes))
    return found


def folders(config: Config) -> dict[str, Path]:
    """Return the folders that the server writes to, and their keys."""
    return {
        "store.dir": config.store.dir,
        "store.keys_dir": config.store.keys_dir,
        "keys.ingest_dir": config.keys.ingest_dir,
    }


def _written(config: Config) -> dict[str, Path]:
    """Return the folders that have to be there, with that of the catalog; where one is missing, what it is to be in."""
    file = catalog_file(config.catalog.url)
    found = folders(config) | ({} if file is None else {"catalog.url": file.absolute().parent})
    return {
        setting: next((path for path in (folder, *folder.parents) if path.is_dir()), folder)
        for setting, folder in found.items()
    }


def check_whose(config: Config) -> None:
    """Refuse to open a store, its keys and its catalog for anybody but their owner, to read as well.

    A command that reads records it in the audit, or repairs what a crash left.

    Raises:
        ForeignOwnerError: They are somebody else's.
        CatalogError: catalog.url is wrong.
    """
    layout = layout_of(config)
    file = catalog_file(config.catalog.url)
    ids = [folder / NAME for folder in (layout.uploads, layout.keys_dir)]
    check_owner([*ids, *([] if file is None else [file])])
