"""Signals of a terminal as a child finds them at its start, however the tests' own process was started."""

import signal
from collections.abc import Callable


def signals_at_start(*ignored: signal.Signals) -> Callable[[], None]:
    """Return a `preexec_fn`: these signals are ignored, as `nohup` and a shell's `&` do it, and no other."""

    def set_them() -> None:
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN if number in ignored else signal.SIG_DFL)

    return set_them
