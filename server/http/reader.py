"""The deadline for a client that does not take its answer."""

import asyncio
from collections.abc import Callable

_LOOK_SECONDS = 1.0
_STALLED_SECONDS = 5.0
"""After that the client may be closed in favour of another one at a limit."""


class Reader:
    """Looks after one client while the kernel takes no more for it."""

    def __init__(self, timeout_seconds: float) -> None:
        """How long the client may take no byte; 0: for any time."""
        self._timeout_seconds = timeout_seconds
        self._timer: asyncio.TimerHandle | None = None
        self._taken_at = 0.0

    @property
    def stalled(self) -> bool:
        """Tell whether the client has taken no byte of what waits for it, for a while."""
        return self._timer is not None and _now() - self._taken_at > _STALLED_SECONDS

    def watch(self, wire: asyncio.Transport, drop: Callable[[], None]) -> None:
        """Begin to look, and call `drop` when it takes too long; for the transport's `pause_writing`."""
        self._taken_at = _now()
        self._look_again(wire, drop, wire.get_write_buffer_size())

    def stop(self) -> None:
        """Stop looking: all has been taken, or the connection is gone."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look_again(self, wire: asyncio.Transport, drop: Callable[[], None], left_bytes: int) -> None:
        self._timer = asyncio.get_running_loop().call_later(_LOOK_SECONDS, self._look, wire, drop, left_bytes)

    def _look(self, wire: asyncio.Transport, drop: Callable[[], None], left_before: int) -> None:
        left_bytes = wire.get_write_buffer_size()
        if left_bytes < left_before:
            self._taken_at = _now()
        if self._timeout_seconds and _now() - self._taken_at > self._timeout_seconds:
            drop()
        else:
            self._look_again(wire, drop, left_bytes)


def _now() -> float:
    return asyncio.get_running_loop().time()
