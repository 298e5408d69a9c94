"""The store's id, in a file of each of its two roots and in the catalog: no other folder is taken for the store.

A volume that is not mounted is an empty folder, and a catalog that believed it would forget every upload that it waits
for. So a start first compares, and where anything differs it makes nothing and drops nothing.

Order of a first start, each step durable before the next, so that one that was killed is gone on with: the folders, the
id beside the wrapped keys, the id beside the uploads, the id in the catalog. Each is written once and never changed.

Source: docs/reference/format.md, The store's id.
"""

import contextlib
import re
import secrets
from pathlib import Path

from dropoff_tus.errors import ToldError
from storage.files.durable import Disk
from storage.files.layout import Layout

NAME = "store-id"
_ID = re.compile(r"[0-9a-f]{32}")


class WrongStoreError(ToldError):
    """A folder is not that of the catalog's store; the text says which, and what to do. Nothing was changed."""


def check_store(layout: Layout, store_id: str | None) -> None:
    """Refuse folders that are not those of a store.

    Args:
        layout: The two roots.
        store_id: The catalog's; None if it knows none, and then the two have to agree.

    Raises:
        WrongStoreError: One of them is another's, or nobody's.
        OSError: One of them cannot be read.
    """
    keys_id, uploads_id = _read(layout.keys_dir), _read(layout.uploads)
    expected = store_id or keys_id or uploads_id
    if expected is None:
        return
    for setting, folder, found in (
        ("store.dir", layout.uploads, uploads_id),
        ("store.keys_dir", layout.keys_dir, keys_id),
    ):
        if found is None:
            raise WrongStoreError(_no_id(setting, folder, expected))
        if found != expected:
            message = (
                f"{folder} is of another store: its {NAME} is {found}, expected is {expected}. Mount the right volume, "
                f"or correct {setting} or catalog.url. Nothing was changed"
            )
            raise WrongStoreError(message)


def adopt_store(layout: Layout, *, in_use: bool) -> str:
    """Give a store its id, for a catalog that knows none; or go on where an earlier attempt was killed.

    Args:
        layout: The two roots. They are made where they are missing.
        in_use: Whether the catalog has uploads, so that neither root can be empty.

    Returns:
        The id, for the catalog to keep.

    Raises:
        WrongStoreError: A root cannot be the catalog's; nothing was made.
        OSError: The disk failed.
    """
    keys_id, uploads_id = _read(layout.keys_dir), _read(layout.uploads)
    if uploads_id is not None:
        check_store(layout, None)
        return uploads_id
    new = keys_id or secrets.token_hex(16)
    if in_use:
        for setting, folder in (("store.dir", layout.uploads), ("store.keys_dir", layout.keys_dir)):
            if not folder.is_dir() or not any(folder.iterdir()):
                raise WrongStoreError(_no_id(setting, folder, new))
    # Synced whatever the store's durability: it is done once, and a half of it would be refused.
    disk = Disk(sync=True)
    for folder in (layout.keys_dir, layout.uploads):
        disk.make_root(folder)
        new = _write_first(disk, folder, new)
    check_store(layout, new)
    return new


def _no_id(setting: str, folder: Path, expected: str) -> str:
    what = f"there is no folder {folder}" if not folder.is_dir() else f"{folder} is not the store's: it has no {NAME}"
    return (
        f"{what}. It looks like a volume that is not mounted, or a wrong {setting}: mount it, or correct the setting. "
        f"Nothing was changed. If it is the right one (restored from a copy, for instance), write the line "
        f"{expected} into {folder / NAME}"
    )


def _read(folder: Path) -> str | None:
    try:
        text = (folder / NAME).read_text("ascii", "replace").strip()
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not _ID.fullmatch(text):
        message = f"{folder / NAME} does not hold a store's id; put it back from a copy. Nothing was changed"
        raise WrongStoreError(message)
    return text


def _write_first(disk: Disk, folder: Path, store_id: str) -> str:
    """Write a root's id unless it has one; return the one it has then."""
    temporary = folder / f"{NAME}.{secrets.token_hex(4)}"
    disk.write_new(temporary, f"{store_id}\n".encode("ascii"))
    try:
        disk.sync_path(temporary)
        # Of several that start at once the first gives the id.
        with contextlib.suppress(FileExistsError):
            disk.rename_new(temporary, folder / NAME)
    finally:
        disk.remove(temporary)
    disk.sync_path(folder)
    return _read(folder) or store_id
