"""The other servers on this store, asked by datagrams: to stop writing an upload, or to commit what they have of it.

Each server has a socket in a folder of the store, which only its owner can enter. Nothing rests on an answer: the lock
of an upload says who may write it, and without an answer its next holder waits for that. A name whose server has died
is taken away by whoever meets it.

Source: unix(7).
"""

import asyncio
import contextlib
import json
import logging
import os
import re
import secrets
import socket
from dataclasses import asdict
from pathlib import Path
from typing import Any

from storage.files.durable import Disk
from storage.files.locks import open_folder
from storage.neighbours import Answer, Answering, Question, Verb

_log = logging.getLogger(__name__)
_NAME = re.compile(r"[0-9a-f]{16}")
_MAX_BYTES = 4096
_LOOK_SECONDS = 1.0
"""So long a look into the folder is believed."""


class FileNeighbours:
    """Implements `storage.neighbours.Neighbours`. Only on the event loop, from `open` to `close`."""

    def __init__(self, disk: Disk, folder: Path) -> None:
        """Be nobody's neighbour yet."""
        self._disk, self._path = disk, folder
        self._folder: int | None = None
        self._socket: socket.socket | None = None
        self._name = secrets.token_hex(8)
        self._answering: Answering | None = None
        self._seen: list[str] = []
        self._looked_at = float("-inf")
        self._asked: dict[str, asyncio.Queue[Answer]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def open(self, answering: Answering) -> None:
        """Be there for the others; where the folder takes no socket, they and this one wait for locks."""
        made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            self._disk.make_folder(self._path)
            self._folder = open_folder(self._path)
            made.bind(self._place(self._name))
        except OSError as error:
            made.close()
            _log.warning("no socket for other servers on this store", extra={"exception": error.strerror})
            return
        self._socket, self._answering = made, answering
        asyncio.get_running_loop().add_reader(made.fileno(), self._receive, made)

    def close(self) -> None:
        """Be gone."""
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None
            self._forget(self._name)
        for task in self._tasks:
            task.cancel()
        if self._folder is not None:
            os.close(self._folder)
            self._folder = None

    def any(self) -> bool:
        """Tell whether there may be another server."""
        return bool(self._others())

    async def ask(self, question: Question, seconds: float) -> Answer:
        """Ask all others; return the holder's answer, NONE where nobody else here is the holder."""
        number = secrets.token_hex(8)
        message = {"from": self._name, "number": number, "ask": asdict(question)}
        answers = self._asked[number] = asyncio.Queue()
        try:
            waiting = sum(self._send(name, message) for name in self._others())
            async with asyncio.timeout(seconds):
                while waiting:
                    waiting -= 1
                    if (answer := await answers.get()) is not Answer.NONE:
                        return answer
        except TimeoutError:
            pass
        finally:
            del self._asked[number]
        return Answer.NONE

    def _others(self) -> list[str]:
        if self._socket is None or self._folder is None:
            return []
        now = asyncio.get_running_loop().time()
        if now - self._looked_at > _LOOK_SECONDS:
            self._looked_at = now
            with contextlib.suppress(OSError):  # no descriptor is left, perhaps: those seen before may still be there
                names = os.listdir(self._folder)  # noqa: PTH208 - of a descriptor
                self._seen = [name for name in names if name != self._name and _NAME.fullmatch(name)]
        return self._seen

    def _place(self, name: str) -> str:
        # However long the path is: a socket's may have 107 bytes.
        return f"/proc/self/fd/{self._folder}/{name}"

    def _send(self, name: str, message: dict[str, Any]) -> bool:
        """Send a message; tell whether it was taken."""
        if self._socket is None:
            return False
        try:
            self._socket.sendto(json.dumps(message).encode(), self._place(name))
        except (ConnectionRefusedError, FileNotFoundError):
            self._forget(name)
            self._seen = [seen for seen in self._seen if seen != name]
            return False
        except OSError:  # above all: it has more to read than it reads
            return False
        return True

    def _forget(self, name: str) -> None:
        with contextlib.suppress(OSError):
            self._disk.remove(self._path / name)

    def _receive(self, here: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            told = json.loads(here.recv(_MAX_BYTES))
            if "answer" in told:
                if (waiting := self._asked.get(told["number"])) is not None:
                    waiting.put_nowait(Answer(told["answer"]))
            elif _NAME.fullmatch(told["from"]):
                asked = told["ask"]
                question = Question(**{**asked, "verb": Verb(asked["verb"])})
                task = asyncio.create_task(self._answer(told["from"], told["number"], question))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _answer(self, name: str, number: str, question: Question) -> None:
        if self._answering is not None:
            answer = await self._answering(question)
            self._send(name, {"number": number, "answer": answer})
