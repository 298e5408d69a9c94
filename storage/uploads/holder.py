"""A lease's holder as other requests see it, and how they ask it to stop or to commit. Only on the event loop."""

import asyncio
import time
from dataclasses import dataclass, field

from dropoff_tus.errors import DropoffError
from dropoff_tus.ports.store import Body

QUIET_SECONDS = 1.0
"""A holder that received nothing for this long commits when HEAD asks."""


@dataclass(eq=False)
class Holder:
    """The present writer of an upload, or who waits to be it."""

    writes: bool = False
    position: int | None = None
    """The offset it would have if it stopped now; None while it takes no bytes."""
    received_at: float = field(default_factory=time.monotonic)
    checksummed: bool = False
    body: Body | None = None
    stop: DropoffError | None = None
    commit_asked: list[asyncio.Future[None]] = field(default_factory=list)
    released: asyncio.Event = field(default_factory=asyncio.Event)

    def ask_stop(self, error: DropoffError) -> None:
        """Ask to commit, raise error and let go; the first asker's error stays."""
        if self.stop is None:
            self.stop = error
        if self.body is not None:
            self.body.wake()

    def ask_commit(self) -> asyncio.Future[None]:
        """Ask to commit and go on; the future is done when that is durable or the holder has let go."""
        future = asyncio.get_running_loop().create_future()
        self.commit_asked.append(future)
        if self.body is not None:
            self.body.wake()
        return future

    def take_asked(self) -> list[asyncio.Future[None]]:
        """Return those who asked until now; the commit that follows does not answer later ones."""
        asked, self.commit_asked = self.commit_asked, []
        return asked

    def let_go_of_body(self) -> None:
        """Note that no body is being taken any more, and answer everyone who waits for a commit."""
        self.body = self.position = None
        let_on(self.take_asked())


def let_on(asked: list[asyncio.Future[None]]) -> None:
    """Tell those who asked for a commit that it is done."""
    for future in asked:
        if not future.done():
            future.set_result(None)
