"""The deadline for a client that does not take its answer."""

import asyncio
from collections.abc import Callable

_LOOK_SECONDS = 1.0
_STALLED_SECONDS = 5.0
"""After that the client makes place for another one where places are rare."""


class Reader:
    """Looks after one client while the kernel takes no more for it."""

    def __init__(self, timeout_seconds: float, drop: Callable[[], None]) -> None:
        """Call `drop` when the client has taken no byte for so long; 0: never."""
        self._timeout_seconds, self._drop = timeout_seconds, drop
        self._wire: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._left_bytes, self._taken_at = 0, 0.0

    @property
    def stalled(self) -> bool:
        """Tell whether the client has taken no byte of what waits for it, for a while."""
        return self._timer is not None and _now() - self._taken_at > _STALLED_SECONDS

    def watch(self, wire: asyncio.Transport) -> None:
        """Begin to look; for the transport's `pause_writing`."""
        self._wire, self._taken_at = wire, _now()
        self._look_again(wire.get_write_buffer_size())

    def stop(self) -> None:
        """Stop looking: all has been taken, or the connection is gone."""
        if self._timer is not None:
            self._timer.cancel()
        self._wire = self._timer = None

    def _look_again(self, left_bytes: int) -> None:
        self._left_bytes = left_bytes
        self._timer = asyncio.get_running_loop().call_later(_LOOK_SECONDS, self._look)

    def _look(self) -> None:
        left_bytes = self._wire.get_write_buffer_size() if self._wire is not None else 0
        if left_bytes < self._left_bytes:
            self._taken_at = _now()
        if self._timeout_seconds and _now() - self._taken_at > self._timeout_seconds:
            self._drop()
        else:
            self._look_again(left_bytes)


def _now() -> float:
    return asyncio.get_running_loop().time()
