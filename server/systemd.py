"""What systemd hands to a service, and hears from it: listening sockets, readiness, signs of life.

Source: sd_listen_fds(3), sd_notify(3), sd_watchdog_enabled(3).
"""

import asyncio
import contextlib
import os
import socket

from server.services import StartError

_FIRST_DESCRIPTOR = 3
_SIGNS_IN_TIME = 3


def given_sockets() -> dict[str, list[socket.socket]]:
    """Take the listening sockets that this process got, by their names; there are none outside of systemd.

    Raises:
        StartError: One of them does not listen.
    """
    pid, count, names = (os.environ.pop(f"LISTEN_{name}", "") for name in ("PID", "FDS", "FDNAMES"))
    found: dict[str, list[socket.socket]] = {}
    if pid != str(os.getpid()):
        return found
    named = dict(enumerate(names.split(":")))
    for number in range(int(count or 0)):
        given = socket.socket(fileno=_FIRST_DESCRIPTOR + number)
        if not given.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            message = "systemd handed over a socket that does not listen; write ListenStream= and Accept=no in its unit"
            raise StartError(message)
        given.set_inheritable(False)
        given.setblocking(False)  # noqa: FBT003 - likewise
        found.setdefault(named.get(number, ""), []).append(given)
    return found


def notify(*states: str) -> None:
    """Tell systemd, if it wants to know; it may be too late for it."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
            told.setblocking(False)  # noqa: FBT003 - its only argument
            told.sendto("\n".join(states).encode(), address.replace("@", "\0", 1) if address[0] == "@" else address)


async def show_life() -> None:
    """Tell the watchdog, if there is one, that the event loop turns."""
    microseconds = int(os.environ.get("WATCHDOG_USEC") or 0)
    while microseconds and os.environ.get("WATCHDOG_PID") in {None, str(os.getpid())}:
        notify("WATCHDOG=1")
        await asyncio.sleep(microseconds / 1e6 / _SIGNS_IN_TIME)
