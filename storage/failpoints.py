"""Steps at which a crash is tested."""

import os
import signal
from collections.abc import Callable

_VARIABLE = "DROPOFF_TUS_FAILPOINT"
"""`name:count` kills the process at the count-th passage of that point."""


def _killer(spec: str) -> Callable[[str], None]:
    """Make the hook that kills this process."""
    name, _, count = spec.partition(":")
    left = int(count or "1")

    def kill(point: str) -> None:
        nonlocal left
        if point == name:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    return kill


hook: Callable[[str], None] | None = _killer(os.environ[_VARIABLE]) if _VARIABLE in os.environ else None
"""Tests put another one here."""


def failpoint(name: str) -> None:
    """Mark a step."""
    if hook is not None:
        hook(name)
