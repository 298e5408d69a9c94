"""A process that dies inside a test: from some failpoint on nothing more is done, and what is on the disk stays."""

from collections.abc import Iterator
from contextlib import contextmanager


class Killed(BaseException):
    """The process died here."""


class Killer:
    """Stands in for `storage.failpoints.hook`."""

    def __init__(self) -> None:
        """Let everything pass."""
        self._left: int | None = None
        self.died = False

    def __call__(self, _point: str) -> None:
        """Pass a failpoint; a dead process passes none."""
        if self._left is not None:
            self._left -= 1
            if self._left <= 0:
                self.died = True
                raise Killed

    @contextmanager
    def at(self, passage: int) -> Iterator[None]:
        """Die in the block, at this passage of any failpoint, counted from 1; `died` says whether it had that many."""
        self._left, self.died = passage, False
        try:
            yield
        except Killed:
            pass
        finally:
            self._left = None
