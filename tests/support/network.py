"""Networks of their own: a child sees only `lo`, and names are what the test says."""

import fcntl
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_SET_FLAGS, _UP = 0x8914, 0x1  # SIOCSIFFLAGS, IFF_UP; source: netdevice(7)
_NO_IPV6 = Path("/proc/sys/net/ipv6/conf/all/disable_ipv6")
_BOTH = "127.0.0.1 localhost\n::1 localhost\n"


def in_own_network(
    command: Sequence[str], folder: Path, *, ipv6: bool, hosts: str = _BOTH
) -> subprocess.CompletedProcess[str]:
    """Run a command as the first user of a network of its own."""
    names = folder / "hosts"
    names.write_text(hosts, "ascii")
    inside = [sys.executable, str(Path(__file__).resolve()), str(names), "yes" if ipv6 else "", *command]
    return subprocess.run(
        ["unshare", "--map-root-user", "--net", "--mount", *inside],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def up() -> None:
    """Give a network of its own the address of the machine itself."""
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, _SET_FLAGS, struct.pack("16sh14x", b"lo", _UP))


def _prepare(names: str, ipv6: str, *command: str) -> None:
    subprocess.run(["mount", "--bind", names, "/etc/hosts"], check=True)
    if not ipv6 and _NO_IPV6.exists():
        _NO_IPV6.write_text("1", "ascii")
    up()
    os.execvp(command[0], command)  # noqa: S606 - what the test runs


if __name__ == "__main__":
    _prepare(*sys.argv[1:])
