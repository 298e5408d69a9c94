"""Opens folders below a store's roots, part by part and never through a link. The roots may be links, to volumes."""

import contextlib
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


class _Held(threading.local):
    """The folders that a thread holds open."""

    def __init__(self) -> None:
        self.descriptors: dict[str, int] = {}


class OpenFolders:
    """Folders below some roots, opened for one change or held for several."""

    def __init__(self, roots: Sequence[Path]) -> None:
        """Take the roots."""
        # The inner one first, where one lies in another.
        self._roots = sorted((str(root) for root in roots), key=len, reverse=True)
        self._held = _Held()

    @contextlib.contextmanager
    def holding(self, folder: Path) -> Iterator[int | None]:
        """Keep a folder open for what this thread does in it meanwhile; None for one that is below no root."""
        text, held = str(folder), self._held.descriptors
        if text in held:
            yield held[text]
            return
        try:
            descriptor = self._open(text)
        except OSError as error:
            error.filename = text
            raise
        if descriptor is None:
            yield None
            return
        held[text] = descriptor
        try:
            yield descriptor
        finally:
            del held[text]
            os.close(descriptor)

    @contextlib.contextmanager
    def of(self, path: Path) -> Iterator[int | None]:
        """Open the folder that a path lies in; errors name the path."""
        try:
            with self.holding(path.parent) as descriptor:
                yield descriptor
        except OSError as error:
            error.filename = str(path)
            raise

    def _open(self, text: str) -> int | None:
        root = next((one for one in self._roots if text == one or text.startswith(f"{one}/")), None)
        if root is None:
            return None
        above, _, name = text.rpartition("/")
        if text != root and above in self._held.descriptors:
            return os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=self._held.descriptors[above])
        descriptor = os.open(root, _FOLDER)
        for part in text[len(root) + 1 :].split("/") if text != root else ():
            outer = descriptor
            try:
                descriptor = os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=outer)
            finally:
                os.close(outer)
        return descriptor
