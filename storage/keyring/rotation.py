"""The key file in a rotation of the signing key, which only a store that nobody uses can have.

Steps, each durable before the next, so that a second run finishes what a first one began:
1. the key file gets the new key beside the old one; in this state no server starts;
2. every unfinished upload's log is handed over to the new key (`storage.uploads.handover`);
3. the key file gets the new key as the one that signs, and the old one as a public key that only verifies.

Where the key file is not ours to replace (a credential or a command), the new text goes to another file, which the
operator then puts in place.

Source: docs/reference/format.md, Rotation.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from storage.failpoints import failpoint
from storage.files.locks import open_folder, try_lock
from storage.keyring.keysource import (
    RotationError,
    read_owner_only,
    read_source,
    replace_owner_only,
    source_file,
    write_owner_only,
)
from storage.keyring.signing import SigningKey, SigningKeyFile, key_id, new_signing_key, public_of

_NAME = "signing-key"


@contextlib.contextmanager
def hold_store(root: Path, *, alone: bool = False) -> Iterator[None]:
    """Use a store's keys beside others, or alone.

    Raises:
        RotationError: Someone uses it alone, or alone was asked for and someone uses it.
        FileNotFoundError: There is no such folder.
    """
    descriptor = open_folder(root)
    try:
        if not try_lock(descriptor, shared=not alone):
            message = "the signing key is being rotated; try again when that is done"
            if alone:
                message = "the server, or another command, uses the store; stop it first. Nothing was changed"
            raise RotationError(message)
        yield
    finally:
        os.close(descriptor)


class KeyRotation:
    """The old signing key, the new one, and the file that they are in."""

    def __init__(self, source: str, output: Path | None = None) -> None:
        """Read the old key and find or make the new one; nothing is written yet.

        Args:
            source: Where the signing key comes from.
            output: Where the new text goes when the source cannot be replaced.

        Raises:
            RotationError: The source cannot be replaced and there is no output, or output holds something else.
            KeySourceError: The old key cannot be had.
        """
        path = output or source_file(_NAME, source)
        if path is None:
            message = "the signing key does not come from a file; name a new one with --output and put it in place then"
            raise RotationError(message)
        found = SigningKeyFile.parse(read_source(_NAME, source))
        if found.private is None:
            raise RotationError("the signing key has no private line; nothing was changed")
        self._path, self._output = path, output
        self._old, self._retired = found.private, found.retired
        self._old_public = public_of(found.private)
        self.resumed = found.following is not None
        self._new = found.following or self._begun_elsewhere() or new_signing_key()
        self.new_public = public_of(self._new)
        self.old_id, self.new_id = key_id(self._old_public), key_id(self.new_public)

    @property
    def signing(self) -> SigningKey:
        """The old key, which knows the new one too."""
        return SigningKey(self._old, self._retired, [self.new_public])

    def _begun_elsewhere(self) -> bytes | None:
        """Return the new key of an earlier run that wrote to another file."""
        if self._output is None or not self._output.exists():
            return None
        found = SigningKeyFile.parse(read_owner_only(self._output, "the new signing key"))
        if found.private is None or self._old_public not in found.retired:
            raise RotationError(f"{self._output} exists already and holds another key; it was left as it is")
        self.resumed = True
        return found.private

    def prepare(self) -> None:
        """Step 1: make the new key durable before anything is handed over to it."""
        if self._output is None:
            if not self.resumed:
                replace_owner_only(self._path, SigningKeyFile(self._old, self._retired, self._new).text())
        elif not self.resumed:
            write_owner_only(self._output, self._finished().text())
        failpoint("signing-prepared")

    def finish(self) -> None:
        """Step 3: retire the old key."""
        failpoint("signing-handed-over")
        if self._output is None:
            replace_owner_only(self._path, self._finished().text())

    def _finished(self) -> SigningKeyFile:
        return SigningKeyFile(self._new, (*self._retired, self._old_public))
