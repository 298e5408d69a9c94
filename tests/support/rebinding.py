"""A name that leads to a public address first and to this machine then, asked of a real DNS server.

Run by `tests.support.network.in_own_network`, so that the public address can be one of this machine's. Prints how many
questions came, and who connected where.
"""

import fcntl
import json
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

from tests.support.server_process import ServerProcess

PUBLIC, HERE = "93.184.216.34", "127.0.0.1"
_PORT = 8443
_SET_ADDRESS = 0x8916  # SIOCSIFADDR; source: netdevice(7)
_TYPE_A = 1
_ANSWERS = ([PUBLIC], [HERE], [PUBLIC, HERE], [HERE, PUBLIC])


def _serve_names(server: socket.socket, asked: list[object]) -> None:
    """Answer each question for A with the next of the answers, others with none. Source: RFC 1035, 4."""
    while True:
        query, peer = server.recvfrom(512)
        end = query.index(b"\0", 12) + 5
        addresses: list[str] = []
        if struct.unpack_from(">H", query, end - 4)[0] == _TYPE_A:
            addresses = _ANSWERS[len(asked) % len(_ANSWERS)]
            asked.append(addresses)
        records = b"".join(struct.pack(">HHHIH", 0xC00C, 1, 1, 0, 4) + socket.inet_aton(one) for one in addresses)
        head = query[:2] + struct.pack(">HHHHH", 0x8180, 1, len(addresses), 0, 0)
        server.sendto(head + query[12:end] + records, peer)


def _count(listener: socket.socket, came: list[str]) -> None:
    while True:
        connection, _peer = listener.accept()
        came.append(listener.getsockname()[0])
        connection.close()


def main(folder: Path) -> None:
    """Let a server ask and tell a site by that name."""
    resolver = folder / "resolv.conf"
    resolver.write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n", "ascii")
    subprocess.run(["mount", "--bind", str(resolver), "/etc/resolv.conf"], check=True)
    names = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    fcntl.ioctl(names, _SET_ADDRESS, struct.pack("16sH2x4s8x", b"lo:1", socket.AF_INET, socket.inet_aton(PUBLIC)))
    names.bind((HERE, 53))
    asked: list[object] = []
    came: list[str] = []
    threading.Thread(target=_serve_names, args=(names, asked), daemon=True).start()
    for address in (PUBLIC, HERE):
        listener = socket.create_server((address, _PORT))
        threading.Thread(target=_count, args=(listener, came), daemon=True).start()
    secret = folder / "secret"
    secret.write_text("a secret of the site, long enough", "ascii")
    secret.chmod(0o600)
    site = f"https://rebind.example:{_PORT}/hooks"
    settings = {f"{section}__SECRET": str(secret) for section in ("WEBHOOK", "PRE_CREATE")}
    settings |= {"WEBHOOK__URL": site}
    with ServerProcess(folder, environment=settings) as server:
        server.drop.site.upload(b"hello")  # the webhook is told of it at once
        _wait(asked, 1)
        server.restart(environment={**settings, "PRE_CREATE__WEBHOOK": site})
        told = [server.drop.site.post({"Upload-Length": "1"}).status for _ in range(2 * len(_ANSWERS))]
    sys.stdout.write(json.dumps({"asked": asked, "came": came, "told": told}))


def _wait(asked: list[object], count: int) -> None:
    deadline = time.monotonic() + 20
    while len(asked) < count and time.monotonic() < deadline:
        time.sleep(0.02)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
