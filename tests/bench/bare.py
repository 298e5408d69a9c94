"""The bound: the ciphers, keys and files of an upload, with this product's own functions, and nothing else.

    python -m tests.bench.bare PORT FOLDER

No HTTP library, code, catalog, log line, digest, lease or sync, no answer but to POST and PATCH, no connection that
breaks: a thread for each connection receives, seals, hashes and writes. For small uploads this is what the format costs
on this Python and processor; work on the rest of this product cannot beat a contestant that is ahead of it.
"""

import functools
import os
import secrets
import socket
import sys
import threading
from pathlib import Path

from dropoff_tus.ids import upload_id
from dropoff_tus.model import Metadata
from storage.age import CHUNK_BYTES, Identity, KeyType, Recipient
from storage.files.durable import Disk
from storage.keyring.envelope import SALT_BYTES, Envelope
from storage.keyring.identities import receipt_key
from storage.keyring.secretkey import SecretKey
from storage.keyring.signing import SigningKey
from storage.uploads.segment import BATCH_BYTES, ROLL_BYTES, SegmentWriter, plain_buffer

_HEAD_BYTES = 16 << 10
_LOW_BYTES = 512 << 10
_RECORD = b"r" * 600
"""As long as a log line or a receipt."""


class Bare:
    """Takes uploads into a folder."""

    def __init__(self, folder: Path) -> None:
        """Make the keys of a server."""
        self._folder, self._disk = folder, Disk(sync=False)
        self._root, self._own = Identity.generate(KeyType.HYBRID).recipient, SecretKey(os.urandom(32))
        self._signing = SigningKey(os.urandom(32))
        # More sealers than cores would only get into each other's way.
        self._turn = threading.BoundedSemaphore(os.cpu_count() or 1)
        self._recipients: dict[str, Recipient] = {}

    def serve(self, connection: socket.socket) -> None:
        """Answer one connection until it ends."""
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        head = bytearray(_HEAD_BYTES)
        with connection:
            filled = 0
            while True:
                while (end := head.find(b"\r\n\r\n", 0, filled)) < 0:
                    count = connection.recv_into(memoryview(head)[filled:])
                    if not count:
                        return
                    filled += count
                lines = bytes(head[:end]).split(b"\r\n")
                early = bytes(head[end + 4 : filled])
                filled = 0
                method, target, _ = lines[0].split(b" ", 2)
                if method == b"POST":
                    token = self._create()
                    connection.sendall(b"HTTP/1.1 201 C\r\nContent-Length: 0\r\nLocation: /files/%s\r\n\r\n" % token)
                elif method == b"PATCH":
                    length = next(int(line[15:]) for line in lines if line[:15].lower() == b"content-length:")
                    self._receive(connection, target.rpartition(b"/")[2].decode(), early, length)
                    connection.sendall(b"HTTP/1.1 204 N\r\nUpload-Offset: %d\r\n\r\n" % length)
                else:
                    connection.sendall(b"HTTP/1.1 404 N\r\nContent-Length: 0\r\n\r\n")

    def _create(self) -> bytes:
        """Make an upload: its identity, the envelope, a signed record, and the three files."""
        token = secrets.token_hex(16)
        name = upload_id(token)
        identity = Identity.generate(KeyType.HYBRID)
        envelope = Envelope(name, identity, os.urandom(SALT_BYTES), receipt_key(token), Metadata(()))
        self._write(name, "age", envelope.seal([self._root, self._own]))
        self._write(name, "data", b"")
        self._write(name, "log", _RECORD + self._signing.sign(_RECORD))
        self._recipients[token] = identity.recipient
        return token.encode()

    def _receive(self, connection: socket.socket, token: str, early: bytes, length: int) -> None:
        """Take the body of an upload into segments; then its final record and its receipt."""
        name, recipient = upload_id(token), self._recipients.pop(token)
        buffer = plain_buffer(min(BATCH_BYTES, length) + CHUNK_BYTES)
        data = os.open(self._folder / f"{name}.data", os.O_WRONLY)
        log = os.open(self._folder / f"{name}.log", os.O_WRONLY | os.O_APPEND)
        try:
            buffer[: len(early)] = early
            taken, at, held, filled = 0, 0, 0, len(early)
            writer = SegmentWriter(recipient, index=0, offset=0, data_offset=0, digested=False)
            while taken < length:
                wanted = min(BATCH_BYTES, length - taken)
                while filled < held + wanted:
                    connection.setsockopt(
                        socket.SOL_SOCKET, socket.SO_RCVLOWAT, min(_LOW_BYTES, held + wanted - filled)
                    )
                    count = connection.recv_into(buffer[filled : held + wanted])
                    if not count:
                        return
                    filled += count
                taken += wanted
                last = taken == length or not taken % ROLL_BYTES
                with self._turn:
                    writer.plain_bytes += wanted
                    sealed = writer.write(functools.partial(self._disk.write_at, data), buffer[:filled], last=last)
                held = filled = filled - sealed
                buffer[:held] = bytes(buffer[sealed : sealed + held])
                if last and taken < length:
                    at += writer.entry().data_length
                    writer = SegmentWriter(recipient, index=0, offset=taken, data_offset=at, digested=False)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
            os.write(log, _RECORD + self._signing.sign(_RECORD))
        finally:
            os.close(data)
            os.close(log)
        receipt = _RECORD + self._signing.sign(_RECORD)
        self._write(name, "receipt", receipt_key(token).seal(receipt))

    def _write(self, name: str, suffix: str, content: bytes) -> None:
        self._disk.write_new(self._folder / f"{name}.{suffix}", content)


def main() -> None:
    """Listen on 127.0.0.1 until killed."""
    bare = Bare(Path(sys.argv[2]))
    with socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=1024) as listener:
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=bare.serve, args=(connection,), daemon=True).start()


if __name__ == "__main__":
    main()
