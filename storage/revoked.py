"""API tokens that were revoked: an empty file each, beside the keys, so that no change of the database revives one."""

import contextlib
from pathlib import Path

from storage.durable import Disk


class RevokedTokens:
    """The ids of tokens that are good for nothing any more, whatever the catalog says. Any process may use them."""

    def __init__(self, keys_dir: Path) -> None:
        """Use a folder of its own in the store's folder of keys."""
        self._folder, self._disk = keys_dir / "revoked", Disk(sync=True, roots=(keys_dir,))

    def add(self, token_id: str) -> None:
        """Revoke a token of the catalog, durably and for ever; again is harmless."""
        self._disk.make_root(self._folder)
        with contextlib.suppress(FileExistsError):
            self._disk.write_new(self._folder / token_id, b"")
        self._disk.sync_path(self._folder)

    def __contains__(self, token_id: object) -> bool:
        """Tell whether a token of the catalog was revoked."""
        return (self._folder / str(token_id)).exists()
